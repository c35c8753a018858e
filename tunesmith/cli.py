"""The `tunesmith` command: each command says what it does in its help; facts come as a table, or with --json."""

import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from tunesmith.errors import BillDiffers, DoesNotFit
from tunesmith.foreign import translate

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False, help=__doc__)

TargetArg = Annotated[
    str, typer.Argument(metavar="RECIPE|MODEL|DIR", help="A recipe, a repo, a GGUF, or a folder with a config.json.")
]
RecipeArg = Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe file, or the name of one in configs/.")]
SetOption = Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="Override, with a dotted key.")]
StoreOption = Annotated[Path | None, typer.Option("--store", metavar="DIR", help="Where artifacts live.")]
ModelArg = Annotated[
    str, typer.Argument(metavar="MODEL[@REVISION]", help="owner/name; datasets/owner/name for a data set.")
]
CacheOption = Annotated[Path | None, typer.Option("--cache", metavar="DIR", help="In place of HF_HUB_CACHE.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Facts as one JSON object on stdout.")]
DOES_NOT_FIT = 3


@app.command()
def run(
    recipe: RecipeArg,
    settings: SetOption = [],  # noqa: B006
    store: StoreOption = None,
    until: Annotated[str | None, typer.Option(metavar="STAGE", help="Stop after this stage.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Run a recipe to its endpoint; finished stages are kept and found again."""
    from tunesmith import launch, show

    code, facts = launch.run(recipe, settings, store, until)
    if as_json:
        show.json_line(facts)
    elif code == 0:
        show.run_report(facts)
    else:
        show.error(facts["message"])
    raise typer.Exit(code)


@app.command()
def plan(
    recipe: RecipeArg, settings: SetOption = [], store: StoreOption = None, as_json: JsonOption = False  # noqa: B006
) -> None:  # fmt: skip
    """Show the jobs a run would do, which are done already, and the memory bill; nothing is executed."""
    from tunesmith import forecast, show

    show.planned(forecast.plan(_load(recipe, settings), _store(store)), as_json)


@app.command()
def estimate(
    target: TargetArg = "",
    settings: SetOption = [],  # noqa: B006
    gpus: Annotated[int | None, typer.Option(help="GPUs to plan for.")] = None,
    gpu_memory: Annotated[float | None, typer.Option(metavar="GIB", help="Memory of each.")] = None,
    gpu: Annotated[str | None, typer.Option(metavar="NAME", help="Or its name, such as A100-80G.")] = None,
    solve: Annotated[str | None, typer.Option(metavar="KEY", help="Largest max_length, rank, … that fits.")] = None,
    ledger: Annotated[bool, typer.Option("--ledger", help="What was predicted so far, and what was seen.")] = False,
    store: StoreOption = None,
    simulate: Annotated[bool, typer.Option("--simulate", help="Run the step without weights and compare.")] = False,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write it as a page with pictures.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show the memory bill and the plan, without a GPU and without weights; exit code 3 when nothing fits."""
    from tunesmith import forecast, show
    from tunesmith.question import Machine, pose
    from tunesmith.specs.load import parse_overrides

    if ledger:
        return show.ledger(forecast.ledger(_store(store)), as_json)
    began = time.monotonic()
    try:
        question = pose(target, parse_overrides(settings), Machine(gpus, gpu_memory, gpu))
        found = forecast.estimate(question, solve, _store(store))
        found = forecast.confirmed(found, _store(store)) if simulate else found
        show.estimated(found, as_json, time.monotonic() - began, html)
        if found.confirmation and (objection := found.confirmation.objection):
            raise BillDiffers(objection)
    except DoesNotFit as refusal:
        show.refusal(refusal, as_json, time.monotonic() - began, html)
        raise typer.Exit(DOES_NOT_FIT) from refusal


@app.command()
def status(store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Show what is served and what the store holds."""
    from tunesmith import forecast, show

    facts = forecast.status(_store(store))
    show.json_line(facts) if as_json else show.status_report(facts)


@app.command()
def stop(store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Take the endpoint down; open streams may finish first."""
    from tunesmith import show
    from tunesmith.serving import endpoint

    stopped = endpoint.stop(_store(store))
    show.json_line({"stopped": stopped}) if as_json else show.stopped(stopped)


@app.command()
def doctor(store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Examine the environments, the devices and the disk; exit code 1 when something needs mending."""
    from tunesmith import show
    from tunesmith.doctor import examine

    findings = examine(_store(store).root)
    show.findings(findings, as_json)
    raise typer.Exit(0 if all(finding.ok for finding in findings) else 1)


@app.command()
def download(
    model: ModelArg,
    sources: Annotated[list[str], typer.Option("--source", metavar="hf|modelscope|URL|DIR", help="In order.")] = [],  # noqa: B006
    include: Annotated[list[str], typer.Option(metavar="GLOB", help="Only files that match.")] = [],  # noqa: B006
    cache: CacheOption = None,
    connections: Annotated[int, typer.Option(help="At most so many at once.")] = 8,
    xet: Annotated[bool, typer.Option("--xet", help="Through hf_xet what the hub has in Xet.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Bring a repo into the Hugging Face cache: resumed to the byte, verified, from the first source that has it."""
    from tunesmith import show
    from tunesmith.hub.transfer import command

    facts = command.download(model, sources, include, cache, connections, xet)
    show.json_line(facts) if as_json else command.tell_download(facts)


@app.command()
def verify(model: ModelArg, cache: CacheOption = None, as_json: JsonOption = False) -> None:
    """Hash a repo's files in the cache again, without the network; exit code 1 when one is wrong."""
    from tunesmith import show
    from tunesmith.hub.transfer import command

    facts = command.verify(model, cache)
    show.json_line(facts) if as_json else command.tell_verify(facts)
    raise typer.Exit(1 if facts["wrong"] else 0)


@app.command()
def backup(
    recipe: RecipeArg, settings: SetOption = [], store: StoreOption = None, as_json: JsonOption = False  # noqa: B006
) -> None:  # fmt: skip
    """Push a recipe's finished results, and its newest checkpoint, to the repo in backup.to; what is there stays."""
    from tunesmith import show
    from tunesmith.backup import command

    facts = command.backup(_load(recipe, settings), _store(store))
    show.json_line(facts) if as_json else command.tell(facts)


@app.command()
def hub(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Holds owner/name folders.")],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8091,
) -> None:
    """Serve a folder of models as a read-only Hugging Face hub (point HF_ENDPOINT at it)."""
    from tunesmith.hub import server

    server.serve(folder, host, port)


def _load(recipe: str, settings: list[str]) -> Any:
    from tunesmith.specs.load import load_recipe, parse_overrides

    return load_recipe(recipe, parse_overrides(settings))


def _store(chosen: Path | None) -> Any:
    from tunesmith.places import store_root
    from tunesmith.store import Store

    return Store(chosen or store_root())


def main() -> None:
    """Runs the command; a user's mistake ends with one sentence and its exit code, never a stack trace."""
    from tunesmith import show

    try:
        app()
    except Exception as error:
        ours = translate(error)
        if ours is None:
            raise
        show.error(ours.message)
        sys.exit(ours.exit_code)


if __name__ == "__main__":
    main()
