"""Flower's ServerApp: a run on the SuperLink of somebody who operates Flower already.

`flwr run` starts it; docs/how-to/flower.md says how. Hospitals are SuperNodes as they come, with
`polyclinic_client.fleet.app` as their ClientApp.
"""

import shlex

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from polyclinic.errors import ConfigError
from polyclinic.federation.grids.stock import StockGrid
from polyclinic.system.console import LineConsole
from polyclinic_server.runs.app import coordinate
from polyclinic_server.runs.coordinator import concluded, create_run, finish, resume_run, shown

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run a federation to its end, and write its report.

    The run's configuration has three texts: `settings`, as `polyclinic-server run` takes them;
    `name` of a new run; and `resume`, the name of one that shall go on.
    """
    settings = shlex.split(str(context.run_config.get("settings", "")))
    name, resume = (str(context.run_config.get(key, "")) for key in ("name", "resume"))
    console = LineConsole()
    folder, configs = resume_run(resume, settings) if resume else create_run(settings, name or None)
    if configs[0].deployment.sites:
        raise ConfigError(
            "deployment.sites chooses hospitals of polyclinic's own fleet: choose SuperNodes by "
            "Flower's federation instead."
        )
    remedy = f"resume with --run-config 'resume=\"{folder.name}\"'"
    with concluded(folder, remedy, new=False), shown(folder, configs, console):
        coordinate(StockGrid(grid), folder)
    finish(folder, console)
