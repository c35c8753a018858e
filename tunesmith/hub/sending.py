"""Files as HTTP answers, with ranges."""

from starlette.responses import FileResponse


class File(FileResponse):
    # Each chunk crosses to a thread and back, which Starlette's 64 KiB would do thousands of times a model.
    chunk_size = 1 << 20
