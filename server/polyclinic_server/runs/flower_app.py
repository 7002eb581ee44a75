"""Flower's ServerApp: a run on the SuperLink of somebody who operates Flower already.

`flwr run` starts it; docs/how-to/flower.md says how. Hospitals are SuperNodes as they come, with
`polyclinic_client.fleet.app` as their ClientApp.
"""

import os
import shlex

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from polyclinic.federation.grids.stock import StockGrid
from polyclinic.federation.jobs import describe_run, follow_run
from polyclinic.system.console import LineConsole
from polyclinic_server.runs.app import coordinate
from polyclinic_server.runs.coordinator import create_run, finish, resume_run
from polyclinic_server.runs.live_table import LiveTable, show

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
    console.print(f"run {folder.name} in {folder.path}", markup=False)
    describe_run(folder, configs, state="waiting", pid=os.getpid())
    try:
        with show(LiveTable(follow_run(configs)), console) as handle, folder.logged("flwr"):
            folder.listeners.append(handle)
            coordinate(StockGrid(grid), folder)
    except BaseException as error:
        folder.end(error, f"resume with --run-config 'resume=\"{folder.name}\"'")
        raise
    folder.end(None)
    finish(folder, console)
