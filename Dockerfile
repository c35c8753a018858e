# One stage per environment, the worker last. The commands are the Makefile's own.
#   docker build -t tunesmith .                        for a GPU host
#   docker build -t tunesmith --build-arg DEVICE=cpu . for one without
FROM python:3.11-slim-bookworm AS base
# make builds the environments; git tells a checkout's state; the compiler and libnuma are what vLLM and triton want.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends gcc g++ git libgomp1 libnuma1 make \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /tunesmith
ENV COMPILE=1 \
    PIP_NO_CACHE_DIR=1 \
    PREFECT_SERVER_ANALYTICS_ENABLED=false \
    DO_NOT_TRACK=1
# What an environment is built from, and nothing that changes more often.
COPY Makefile ./
COPY deploy/__init__.py deploy/blame.py deploy/build_env.py deploy/diagnose.py deploy/probe.py deploy/target.py deploy/
COPY tunesmith/__init__.py tunesmith/environments.py tunesmith/errors.py tunesmith/
COPY locks locks

FROM base AS train
ARG DEVICE=cuda
RUN make env-train DEVICE=$DEVICE

FROM base AS serve
ARG DEVICE=cuda
RUN make env-serve DEVICE=$DEVICE

FROM base AS main
RUN make env-main

FROM base AS worker
# An environment stays where it was built: its scripts hold its path.
COPY --from=train /tunesmith/.envs/train .envs/train
COPY --from=serve /tunesmith/.envs/serve .envs/serve
COPY --from=main /tunesmith/.venv .venv
COPY . .
RUN useradd --create-home --uid 1000 tunesmith \
 && mkdir -p /data/store /data/huggingface /data/prefect \
 && chown -R 1000 /data
USER 1000
ENV PATH=/tunesmith/.venv/bin:$PATH \
    PREFECT_HOME=/data/prefect \
    HF_HOME=/data/huggingface \
    TUNESMITH_STORE=/data/store
VOLUME /data
HEALTHCHECK --start-period=60s --interval=30s --timeout=5s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/health', timeout=4)"]
ENTRYPOINT ["prefect", "worker", "start", "--pool", "gpu", "--type", "process", "--with-healthcheck"]
