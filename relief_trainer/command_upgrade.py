"""The commands ``relief upgrade`` and ``relief uninstall``."""

from __future__ import annotations

import click

from relief_trainer import __version__
from relief_trainer.options import tell_warnings, with_dsn


@click.command()
@with_dsn
def upgrade(dsn: str | None) -> None:
    """Upgrade Relief in a database to the version of this command, as a superuser.

    What it generated beside your tables is made anew: each attached table is locked for that, all in one transaction.

    \b
    Example:
      relief upgrade --dsn postgresql://postgres@localhost/shop
    """
    from relief_trainer.connection import connect
    from relief_trainer.install import upgrade as run
    from relief_trainer.show import table

    with connect(dsn) as connection:
        checks = run(connection)
    click.echo(f"Relief {__version__} is installed")
    click.echo(table(["check", "result"], [list(row) for row in checks]))


@click.command()
@with_dsn
@click.option("--drop-columns", is_flag=True, help="Drop the columns that Relief filled, too.")
@click.option("--yes", is_flag=True, help="Don't ask.")
def uninstall(dsn: str | None, drop_columns: bool, yes: bool) -> None:
    """Take Relief out of a database, as a superuser: your tables stay, all that it knew goes.

    \b
    Example:
      relief uninstall --yes --dsn postgresql://postgres@localhost/shop
    """
    from relief_trainer.connection import connect
    from relief_trainer.install import require_removable
    from relief_trainer.install import uninstall as run

    with connect(dsn) as connection:
        require_removable(connection)
        tell_warnings(connection)
        if not yes:
            lost = f'All models, histories, labels and events of database "{connection.info.dbname}" will be gone.'
            click.confirm(f"{lost} Go on?", abort=True)
        run(connection, drop_columns)
    click.echo("Relief is uninstalled")
