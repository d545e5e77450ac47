"""`dasp report`: attributions as a page."""

from __future__ import annotations

import time

import click

from .front import write


@click.command()
@click.argument("attributions", metavar="OUT.parquet|FOLDER|SAVED.safetensors")
@click.option("--out", required=True, metavar="REPORT.html", help="The page; an older report there is replaced.")
@click.option("--rows", metavar="FILE|FOLDER", help="The rows that were explained, to show what features held.")
@click.option("--rows-limit", type=click.IntRange(min=1), help="Most rows in the page, chosen evenly. Default 20,000 at most.")
@click.option("--title", help="Of the page.")
def report(attributions: str, out: str, rows: str | None, rows_limit: int | None, title: str | None) -> None:
    """Write what `dasp explain` found as one HTML file: settings, measured error, importance, and a table of all rows.

    The page loads nothing from elsewhere. Rows can be sorted, filtered, looked into, as a waterfall or an image, and compared
    two at a time. Where there are too many, or too many features, evenly chosen rows are shown, and the page says so.
    """
    started = time.perf_counter()
    found = write(attributions, out, rows=rows, rows_limit=rows_limit, title=title)
    click.echo(f"{found} ({time.perf_counter() - started:.1f} s)", err=True)
    if found.rows < found.total:
        click.echo("note: the page does not hold all rows; --rows-limit N asks for more or fewer", err=True)
