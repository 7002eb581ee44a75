"""What the commands of `polyclinic-client` say of themselves."""

from polyclinic.system.commands import unwrap

KEYGEN_HELP = unwrap("""Make this hospital's key.

The private half stays here. Send hospital.pub to the coordinator, who sends back a kit.

Example: [bold]polyclinic-client keygen --folder /etc/polyclinic[/bold]""")

CHECK_HELP = unwrap("""Check data set, machine and connection before anything starts.

Says in plain words what is wrong, one line each: data set, state folder, disk, memory, GPU and
driver, shared memory, a step of training with its time and memory, proxy. With a kit it also dials
the coordinator: certificate, key and clock.

Example: [bold]polyclinic-client check --data /data/brain --kit keys/st-mary.kit.json[/bold]""")

JOIN_HELP = unwrap("""Serve a coordinator until Ctrl-C; or get a refined model and leave.

Checks the data set's list of files and dials out to the coordinator: one outbound connection,
nothing listens but on loopback. Then it trains and evaluates whenever it is asked. It takes up a
lost connection again by itself.

A new hospital may leave training to others: with [bold]--describe[/bold] it sends means over its
images (which ones, the coordinator says; what they reveal, docs/explanation/refinement.md) and
receives a model that was made for such images. A data set for that may list its images under
"test", without labels.

Examples:

[bold]polyclinic-client join --kit keys/st-mary.kit.json --data /data/brain[/bold]

[bold]polyclinic-client join --describe --kit keys/st-john.kit.json --data /data/new[/bold]

[bold]polyclinic-client join --insecure --server 127.0.0.1:9092 --name a --data /data/brain[/bold]
(on one machine, without keys)""")

CONTRIBUTE_HELP = unwrap("""Fine-tune once, hand the contribution to the coordinator, and leave.

For a hospital that is online now and then, in a federation that merges contributions. The command
can be interrupted at any moment and called again: training goes on after its last pass. A
contribution that was not yet acknowledged is handed over again; it counts once.

Example: [bold]polyclinic-client contribute --kit keys/st-mary.kit.json
--data /data/brain[/bold]""")
