"""Ports that are commonly internal: the usual service, and why it should not listen widely.

The catalog is a hint for the operator, never a judgement. Names and ports are the projects' own defaults
(IANA's registry if it agrees). A port without a clear common use is left out.
"""

from __future__ import annotations

from dataclasses import dataclass

from agent.model import PortClass, Protocol


@dataclass(frozen=True, slots=True)
class Entry:
    name: str
    port_class: PortClass
    """The usual class of the port: internal or admin."""
    why: str
    """The risk in a few words: "a data store, often with no or a default password"."""


_INTERNAL = PortClass.INTERNAL
_ADMIN = PortClass.ADMIN
_TCP = (Protocol.TCP,)
_UDP = (Protocol.UDP,)
_BOTH = (Protocol.TCP, Protocol.UDP)

_DATA = "a data store, often with no or a default password"
_REPLICATION = "cluster traffic between its own nodes, rarely authenticated"
_COORDINATION = "holds the configuration and locks of others"
_QUEUE = "any client can read and inject messages"
_FILES = "serves files to any client"
_METRICS = "shows inner workings, names and versions to anyone"
_CONSOLE = "manages the service behind it"
_DEBUGGER = "runs any code for any client that attaches"
_ROOT = "any client controls the host"
_LICENSES = "hands out licenses to any client"
_DISPLAY = "keyboard and screen of a session"
_AMPLIFIER = "answers strangers, and is used to amplify floods"

_ROWS: tuple[tuple[tuple[Protocol, ...], int, int, str, PortClass, str], ...] = (
    # protocols, first port, last port, name, class, why
    # file and directory services
    (_BOTH, 111, 111, "rpcbind", _INTERNAL, _AMPLIFIER),
    (_UDP, 161, 161, "snmp", _ADMIN, _METRICS),
    (_BOTH, 389, 389, "ldap", _INTERNAL, "a directory of people and passwords"),
    (_TCP, 445, 445, "smb", _INTERNAL, _FILES),
    (_TCP, 636, 636, "ldaps", _INTERNAL, "a directory of people and passwords"),
    (_TCP, 873, 873, "rsync", _INTERNAL, _FILES),
    (_BOTH, 2049, 2049, "nfs", _INTERNAL, _FILES),
    (_TCP, 24007, 24008, "glusterd", _INTERNAL, _REPLICATION),
    (_TCP, 3260, 3260, "iscsi target", _INTERNAL, "a raw disk"),
    # databases
    (_TCP, 1433, 1433, "ms-sql", _INTERNAL, _DATA),
    (_TCP, 1521, 1521, "oracle", _INTERNAL, _DATA),
    (_TCP, 3306, 3306, "mysql", _INTERNAL, _DATA),
    (_TCP, 33060, 33060, "mysql x protocol", _INTERNAL, _DATA),
    (_TCP, 4444, 4444, "galera state transfer", _INTERNAL, _REPLICATION),
    (_BOTH, 4567, 4567, "galera", _INTERNAL, _REPLICATION),
    (_TCP, 5432, 5432, "postgres", _INTERNAL, _DATA),
    (_TCP, 6432, 6432, "pgbouncer", _INTERNAL, _DATA),
    (_TCP, 5984, 5984, "couchdb", _INTERNAL, _DATA),
    (_TCP, 6379, 6379, "redis", _INTERNAL, _DATA),
    (_TCP, 16379, 16379, "redis cluster bus", _INTERNAL, _REPLICATION),
    (_TCP, 26379, 26379, "redis sentinel", _ADMIN, _CONSOLE),
    (_TCP, 7000, 7001, "cassandra internode", _INTERNAL, _REPLICATION),
    (_TCP, 7199, 7199, "cassandra jmx", _ADMIN, _DEBUGGER),
    (_TCP, 7474, 7474, "neo4j browser", _ADMIN, _CONSOLE),
    (_TCP, 7687, 7687, "neo4j bolt", _INTERNAL, _DATA),
    (_TCP, 8086, 8086, "influxdb", _INTERNAL, _DATA),
    (_TCP, 8123, 8123, "clickhouse http", _INTERNAL, _DATA),
    (_TCP, 8529, 8529, "arangodb", _INTERNAL, _DATA),
    (_TCP, 9042, 9042, "cassandra", _INTERNAL, _DATA),
    (_TCP, 9200, 9200, "elasticsearch", _INTERNAL, _DATA),
    (_TCP, 9300, 9300, "elasticsearch transport", _INTERNAL, _REPLICATION),
    (_BOTH, 11211, 11211, "memcached", _INTERNAL, _DATA),
    (_TCP, 26257, 26257, "cockroachdb", _INTERNAL, _DATA),
    (_TCP, 27017, 27017, "mongodb", _INTERNAL, _DATA),
    (_TCP, 27018, 27019, "mongodb shard or config server", _INTERNAL, _DATA),
    (_TCP, 28015, 28015, "rethinkdb", _INTERNAL, _DATA),
    (_TCP, 50000, 50000, "db2 or jenkins agents", _INTERNAL, _DATA),
    # coordination and secrets
    (_TCP, 2181, 2181, "zookeeper", _INTERNAL, _COORDINATION),
    (_TCP, 2379, 2379, "etcd", _ADMIN, "every secret of a cluster"),
    (_TCP, 2380, 2380, "etcd peer", _INTERNAL, _REPLICATION),
    (_TCP, 2888, 2888, "zookeeper peer", _INTERNAL, _REPLICATION),
    (_TCP, 3888, 3888, "zookeeper election", _INTERNAL, _REPLICATION),
    (_TCP, 4646, 4646, "nomad", _ADMIN, "starts any job on any node"),
    (_TCP, 8200, 8200, "vault", _INTERNAL, "every secret it keeps"),
    (_TCP, 8201, 8201, "vault cluster", _INTERNAL, _REPLICATION),
    (_TCP, 8300, 8300, "consul server rpc", _INTERNAL, _REPLICATION),
    (_BOTH, 8301, 8302, "consul gossip", _INTERNAL, _REPLICATION),
    (_TCP, 8500, 8501, "consul http", _ADMIN, _COORDINATION),
    (_BOTH, 8600, 8600, "consul dns", _INTERNAL, "names every inner service"),
    # queues
    (_TCP, 1883, 1883, "mqtt", _INTERNAL, _QUEUE),
    (_TCP, 4222, 4222, "nats", _INTERNAL, _QUEUE),
    (_TCP, 6222, 6222, "nats cluster", _INTERNAL, _REPLICATION),
    (_TCP, 8222, 8222, "nats monitoring", _ADMIN, _METRICS),
    (
        _TCP,
        4369,
        4369,
        "erlang port mapper",
        _INTERNAL,
        "leads to nodes that run any code, given the cookie",
    ),
    (_TCP, 5672, 5672, "amqp (rabbitmq)", _INTERNAL, _QUEUE),
    (_TCP, 15672, 15672, "rabbitmq management", _ADMIN, _CONSOLE),
    (_TCP, 15692, 15692, "rabbitmq metrics", _ADMIN, _METRICS),
    (_TCP, 25672, 25672, "rabbitmq internode", _INTERNAL, _REPLICATION),
    (_TCP, 61616, 61616, "activemq", _INTERNAL, _QUEUE),
    (_TCP, 8161, 8161, "activemq console", _ADMIN, _CONSOLE),
    (_TCP, 9092, 9092, "kafka", _INTERNAL, _QUEUE),
    (_TCP, 9093, 9093, "kafka controller or alertmanager", _INTERNAL, _QUEUE),
    (_TCP, 11300, 11300, "beanstalkd", _INTERNAL, _QUEUE),
    # containers and machines
    (_TCP, 2375, 2375, "docker without tls", _ADMIN, _ROOT),
    (_TCP, 2376, 2376, "docker", _ADMIN, _ROOT),
    (_TCP, 2377, 2377, "docker swarm", _ADMIN, _REPLICATION),
    (_BOTH, 7946, 7946, "docker swarm gossip", _INTERNAL, _REPLICATION),
    (_UDP, 4789, 4789, "vxlan", _INTERNAL, "takes frames for inner networks from anyone"),
    (_UDP, 8472, 8472, "vxlan (flannel, cilium)", _INTERNAL, "takes frames for inner networks from anyone"),
    (_TCP, 6443, 6443, "kubernetes api", _ADMIN, "controls a cluster"),
    (_TCP, 10248, 10248, "kubelet healthz", _ADMIN, _METRICS),
    (_TCP, 10249, 10249, "kube-proxy metrics", _ADMIN, _METRICS),
    (_TCP, 10250, 10250, "kubelet", _ADMIN, "runs commands in every container of the node"),
    (_TCP, 10255, 10255, "kubelet read-only", _ADMIN, "shows every pod, with no password"),
    (_TCP, 10256, 10256, "kube-proxy healthz", _ADMIN, _METRICS),
    (_TCP, 10257, 10257, "kube-controller-manager", _ADMIN, _METRICS),
    (_TCP, 10259, 10259, "kube-scheduler", _ADMIN, _METRICS),
    (_TCP, 16509, 16509, "libvirt", _ADMIN, _ROOT),
    (_TCP, 16514, 16514, "libvirt tls", _ADMIN, _ROOT),
    (_UDP, 623, 623, "ipmi", _ADMIN, _ROOT),
    (_TCP, 4505, 4506, "salt master", _ADMIN, "runs commands on every minion"),
    (_TCP, 10000, 10000, "webmin", _ADMIN, _ROOT),
    (_TCP, 9090, 9090, "prometheus or cockpit", _ADMIN, _METRICS),
    # metrics
    (_TCP, 4194, 4194, "cadvisor", _ADMIN, _METRICS),
    (_UDP, 8125, 8125, "statsd", _INTERNAL, "takes numbers from anyone"),
    (_TCP, 8126, 8126, "statsd management", _ADMIN, _CONSOLE),
    (_TCP, 9091, 9091, "prometheus pushgateway", _ADMIN, _METRICS),
    (_TCP, 9094, 9094, "alertmanager cluster", _INTERNAL, _REPLICATION),
    (_TCP, 9100, 9100, "node_exporter", _ADMIN, _METRICS),
    (_TCP, 9104, 9104, "mysqld_exporter", _ADMIN, _METRICS),
    (_TCP, 9113, 9113, "nginx exporter", _ADMIN, _METRICS),
    (_TCP, 9115, 9115, "blackbox_exporter", _ADMIN, "connects to any address it is asked to"),
    (_TCP, 9116, 9116, "snmp_exporter", _ADMIN, _METRICS),
    (_TCP, 9121, 9121, "redis_exporter", _ADMIN, _METRICS),
    (_TCP, 9187, 9187, "postgres_exporter", _ADMIN, _METRICS),
    (_TCP, 9477, 9477, "licet", _ADMIN, _METRICS),
    (_TCP, 19999, 19999, "netdata", _ADMIN, _METRICS),
    (_TCP, 2003, 2004, "graphite carbon", _INTERNAL, "takes numbers from anyone"),
    (_TCP, 3100, 3100, "loki", _INTERNAL, "every log line"),
    (_TCP, 4317, 4318, "opentelemetry collector", _INTERNAL, "takes traces from anyone"),
    (_TCP, 14268, 14268, "jaeger collector", _INTERNAL, "takes traces from anyone"),
    (_TCP, 16686, 16686, "jaeger", _ADMIN, _METRICS),
    (_TCP, 24224, 24224, "fluentd forward", _INTERNAL, "takes log lines from anyone"),
    # debuggers and process managers
    (_TCP, 1099, 1099, "java rmi (jmx)", _ADMIN, _DEBUGGER),
    (_TCP, 2345, 2345, "delve", _ADMIN, _DEBUGGER),
    (_TCP, 5005, 5005, "java debugger", _ADMIN, _DEBUGGER),
    (_TCP, 5678, 5678, "debugpy", _ADMIN, _DEBUGGER),
    (_TCP, 6060, 6060, "go pprof", _ADMIN, "memory and code of a running program"),
    (_TCP, 9001, 9001, "supervisord", _ADMIN, "starts and stops processes"),
    (_TCP, 9003, 9003, "xdebug", _ADMIN, _DEBUGGER),
    (_TCP, 9222, 9222, "chrome devtools", _ADMIN, _DEBUGGER),
    (_TCP, 9229, 9229, "node debugger", _ADMIN, _DEBUGGER),
    (_TCP, 9000, 9000, "php-fpm", _INTERNAL, "runs any script for any FastCGI client"),
    (_TCP, 8009, 8009, "tomcat ajp", _INTERNAL, "trusts that the front end has checked every request"),
    (_TCP, 9990, 9990, "wildfly management", _ADMIN, _CONSOLE),
    # consoles
    (_TCP, 1936, 1936, "haproxy statistics", _ADMIN, _CONSOLE),
    (_TCP, 2019, 2019, "caddy admin", _ADMIN, _CONSOLE),
    (_TCP, 5601, 5601, "kibana", _ADMIN, _DATA),
    (_TCP, 8888, 8888, "jupyter", _ADMIN, _DEBUGGER),
    (_TCP, 9901, 9901, "envoy admin", _ADMIN, _CONSOLE),
    (_TCP, 15000, 15000, "envoy admin (istio)", _ADMIN, _CONSOLE),
    # data processing
    (_TCP, 7077, 7077, "spark master", _INTERNAL, _DEBUGGER),
    (_TCP, 8020, 8020, "hdfs namenode", _INTERNAL, _DATA),
    (_TCP, 8088, 8088, "yarn resource manager", _ADMIN, _DEBUGGER),
    (_TCP, 8265, 8265, "ray dashboard", _ADMIN, _DEBUGGER),
    (_TCP, 8983, 8983, "solr", _ADMIN, _DATA),
    (_TCP, 9870, 9870, "hdfs namenode web", _ADMIN, _FILES),
    (_TCP, 10001, 10001, "ray client", _INTERNAL, _DEBUGGER),
    (_TCP, 19530, 19530, "milvus", _INTERNAL, _DATA),
    (_TCP, 6333, 6334, "qdrant", _INTERNAL, _DATA),
    (_TCP, 11434, 11434, "ollama", _INTERNAL, "spends this machine's computing time for any client"),
    # remote screens
    (_TCP, 3389, 3389, "rdp", _ADMIN, _DISPLAY),
    (_TCP, 5900, 5909, "vnc", _ADMIN, _DISPLAY),
    (_TCP, 6000, 6009, "x11", _ADMIN, _DISPLAY),
    # license servers
    (_TCP, 27000, 27009, "flexlm", _INTERNAL, _LICENSES),
    (_TCP, 1055, 1055, "ansys or flexlm license server", _INTERNAL, _LICENSES),
    (_BOTH, 1947, 1947, "sentinel license manager", _INTERNAL, _LICENSES),
    (_TCP, 5053, 5053, "rlm license server", _INTERNAL, _LICENSES),
    (_TCP, 22350, 22350, "codemeter license server", _INTERNAL, _LICENSES),
)


_ENTRIES = {
    (protocol, port): Entry(name, port_class, why)
    for protocols, first, last, name, port_class, why in _ROWS
    for protocol in protocols
    for port in range(first, last + 1)
}


def well_known(protocol: Protocol, port: int) -> Entry | None:
    """The service that commonly listens there; None if it is not an internal one."""
    return _ENTRIES.get((protocol, port))
