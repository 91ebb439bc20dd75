"""One page about a run for someone new to it: ``python -m analysis.report RUN [--output FILE]``.

The page is a single HTML file without scripts; pictures are vector graphics inside it.
"""

import base64
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trainable.commandline import Parser, add_flag, refuse_ignored, resolve_device, run, say, set_up_logging
from trainable.durable import write_text
from trainable.errors import RunError
from trainable.steps import Steps, error_console, told_steps

if TYPE_CHECKING:
    from analysis.report_content import Picture
    from analysis.results import RunResults


def build_parser() -> Parser:
    parser = Parser(prog="python -m analysis.report", description=__doc__)
    parser.add_argument("run", metavar="RUN", help="folder of a finished, running or interrupted search")
    add_flag(parser, "output", metavar="FILE", help="file to write (default: RUN/report.html)")
    add_flag(parser, "no_model", action="store_true", help="omit what needs the winner's checkpoint and recordings")
    add_flag(parser, "held_out", action="store_true", help="score held-out clips even before the search has ended")
    add_flag(parser, "device", default="cpu", help="where the winner's scores are computed (default: cpu)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    parser = build_parser()
    arguments = parser.parse_args(argv)
    if arguments.no_model:
        refuse_ignored(parser, arguments, ("held_out", "device"), "scores the winner's model; remove it or --no-model")
    set_up_logging()
    device = resolve_device(arguments.device)
    output = Path(arguments.output) if arguments.output else Path(arguments.run) / "report.html"
    with told_steps(error_console()) as steps:
        write_report(
            Path(arguments.run),
            output,
            with_model=not arguments.no_model,
            held_out=arguments.held_out,
            device=device,
            steps=steps,
        )
    say(f"{output} ({output.stat().st_size / 1024**2:.1f} MiB)")
    return 0


def write_report(
    path: Path,
    output: Path,
    *,
    with_model: bool = True,
    held_out: bool = False,
    device: str = "cpu",
    steps: Steps | None = None,
) -> None:
    """Writes the report of a run. Raises RunError if the run cannot be read or the file cannot be written."""
    from analysis.results import load_run

    results = load_run(path)
    if not output.parent.is_dir():
        raise RunError(f"the report {output} cannot be written: {output.parent} is not a folder")
    page = render(results, with_model=with_model, held_out=held_out, device=device, steps=steps)
    try:
        write_text(output, page)
    except OSError as error:
        raise RunError(f"the report {output} cannot be written: {error.strerror}") from None


def render(
    results: "RunResults",
    *,
    with_model: bool = True,
    held_out: bool = False,
    device: str = "cpu",
    steps: Steps | None = None,
) -> str:
    """Renders the page of a run as HTML."""
    # Here, not above: --help and a mistyped path answer without jinja2, matplotlib and torch.
    from jinja2 import Environment, PackageLoader, StrictUndefined

    from analysis.report_content import in_rows, report_content

    environment = Environment(
        loader=PackageLoader("analysis"), autoescape=True, undefined=StrictUndefined, trim_blocks=False
    )
    template = environment.get_template("report.html.j2")
    content = report_content(results, with_model=with_model, held_out=held_out, device=device, steps=steps)
    return template.render(content=content, embed=embed, in_rows=in_rows, folder=str(results.folder.path))


def embed(picture: "Picture") -> str:
    """A picture as a data URL: a separate image, so that ids inside one drawing cannot clash with another's."""
    import matplotlib as mpl

    buffer = io.BytesIO()
    # No date, and ids of parts derived from their contents only: the same run gives the same page.
    with mpl.rc_context({"svg.hashsalt": "report"}):
        picture.figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


if __name__ == "__main__":
    sys.exit(run(main))
