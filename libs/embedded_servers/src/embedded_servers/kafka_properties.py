"""What the embedded broker is told: measured on two cores, and why each number is there."""

from pathlib import Path
from string import Template

# The session timeout of the broker cuts a start after a kill from 11 s to 3 s; the one of groups lets a consumer be replaced
# within 5 s; the index size avoids sparse files of 10 MB; few threads and partitions suit one node.
_PROPERTIES = Template("""\
process.roles=broker,controller
node.id=1
listeners=CLIENT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$controller_port
advertised.listeners=CLIENT://127.0.0.1:$port
listener.security.protocol.map=CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=CLIENT
controller.listener.names=CONTROLLER
controller.quorum.voters=1@127.0.0.1:$controller_port
log.dirs=$data
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=2000
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=500
log.index.size.max.bytes=1048576
log.segment.bytes=67108864
log.cleaner.dedupe.buffer.size=8388608
num.network.threads=2
num.io.threads=4
num.recovery.threads.per.data.dir=1
background.threads=2
""")

LOG4J = """\
rootLogger.level=warn
rootLogger.appenderRef.console.ref=console
appender.console.type=Console
appender.console.name=console
appender.console.layout.type=PatternLayout
appender.console.layout.pattern=%d{ISO8601} %p %c %m%n
"""


def server_properties(*, port: int, controller_port: int, data: Path) -> str:
    return _PROPERTIES.substitute(port=port, controller_port=controller_port, data=data)
