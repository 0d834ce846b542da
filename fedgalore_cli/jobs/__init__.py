"""`fedgalore jobs`: post jobs, look at them, steer them, fetch their models and adapters."""

import typer

from fedgalore_cli.jobs import cloning, comparing, fetching, logs, looking, posting, steering, tracking, watching

app = typer.Typer(help="Post jobs, watch and steer them, fetch their models and adapters.", no_args_is_help=True)

app.command()(posting.validate)
app.command()(posting.submit)
app.command()(cloning.clone)
app.command("list")(looking.list_jobs)
app.command()(looking.get)
app.command()(looking.rounds)
app.command()(looking.metrics)
app.command()(logs.logs)
app.command()(comparing.compare)
app.command()(watching.watch)
app.command()(watching.wait)
app.command()(tracking.track)
app.command()(steering.pause)
app.command()(steering.resume)
app.command()(steering.rollback)
app.command()(steering.cancel)
app.command()(steering.delete)
app.command()(steering.label)
app.command()(fetching.download)
app.command()(fetching.adapter)
