# ruff: noqa: E501
"""A table of mistakes, one a line: what is written, the cause that is told, the remedy. The line that is to
be named carries the marker `#!`."""

from __future__ import annotations

WHOLE = """\
version: 1
services:
  db:
    product: acme
    ports: [{port: 5432, class: internal}, {port: 9187, class: admin}]
  web: {product: acme, ports: [{port: 80, class: public}]}
principals:
  billing: [{unit: billing.service}]
  ops: [{group: sre}]
licenses:
  - id: l1
    product: acme
    entitlements:
      - {id: app, principals: [billing, ops]}
"""


def service(body: str) -> str:
    return f"{WHOLE.replace('principals:', f'  x: {body}  #!{chr(10)}principals:', 1)}"


def principal(body: str) -> str:
    return WHOLE.replace("licenses:", f"  x: {body}  #!\nlicenses:", 1)


def entitlement(body: str) -> str:
    return WHOLE + f"      - {body}  #!\n"


def license_(keys: str) -> str:
    return (
        WHOLE + f"  - {{id: l2, product: acme, entitlements: [{{id: a, principals: [ops]}}], {keys}}}  #!\n"
    )


def more(line: str) -> str:
    return f"{WHOLE}{line}  #!\n"


PORT = "{product: acme, ports: [%s]}"
ONE_BY_ONE = [f"{{port: {port}, class: admin}}" for port in range(1000, 5200)]
MANY_PORTS = PORT % ", ".join(ONE_BY_ONE)
CUTTING = f"  z: {{at: 10.0.0.1, product: acme, ports: [{', '.join(ONE_BY_ONE[::2])}]}}\n"
MISTAKES = {
    "unknown section": (more("sevices: {}"), "unknown key 'sevices'", "did you mean 'services'?"),
    "unknown key": (service("{produkt: acme, ports: []}"), "unknown key 'produkt'", "did you mean 'product'?"),
    "unknown port key": (service(PORT % "{port: 1, clas: admin}"), "unknown key 'clas'", "'class'"),
    "no version": (WHOLE.replace("version: 1", "#!"), "version is missing", "version: 1"),
    "version from the future": (WHOLE.replace("version: 1", "version: 2 #!"), "the number 2 is not known", "reads 1"),
    "duplicate key": (WHOLE.replace("  web:", "  db: {}  #!\n  web:"), "'db' was already given at line 3", "rename"),
    "sections that are a list": ("- version: 1  #!\n", "expected sections, found a list", "sections are"),
    "services that are a list": (WHOLE.replace("services:", "restrictions: x #!\nservices:"), "expected a list", "after a -"),
    "a service that is text": (service("nothing"), "expected keys and values, found 'nothing'", "its keys are"),
    "service without a product": (service("{ports: [{port: 1, class: admin}]}"), "lacks 'product'", "licenses cover it"),
    "service without ports": (service("{product: acme}"), "lacks 'ports'", "at least one"),
    "service with no port": (service(PORT % ""), "ports: an empty list", "at least one"),
    "port without class": (service(PORT % "{port: 1}"), "lacks 'class'", "public, internal or admin"),
    "name with a slash": (service(PORT % "{port: 1, class: admin}").replace("  x:", "  a/b:"), "'a/b' is not a valid name", "letters"),
    "bad class": (service(PORT % "{port: 1, class: secret}"), "class: 'secret' is not one of public", "write one of"),
    "bad protocol": (service(PORT % "{port: 1, class: admin, protocol: sctp}"), "'sctp' is not one of tcp, udp", "tcp"),
    "port of the wrong type": (service(PORT % "{port: [1], class: admin}"), "a list is not a valid port", "27000-27009"),
    "port that is no number": (service(PORT % "{port: http, class: admin}"), "'http' is not a valid port", "5432"),
    "port out of range": (service(PORT % "{port: 70000, class: admin}"), "outside 1-65535", ""),
    "port zero": (service(PORT % "{port: 0, class: admin}"), "outside 1-65535", ""),
    "range backwards": (service(PORT % "{port: 20-10, class: admin}"), "ends before it starts", "write 10-20"),
    "too many ports": (service(MANY_PORTS), "more than 4096 ports", "as one range"),
    "a range in too many pieces": (service(PORT % "{port: 1-65535, class: admin}").replace("  web:", CUTTING + "  web:"), "1-65535/tcp is cut into 4207 by others, and there are more than 4096", "narrow it"),
    "bad bind": (service(PORT % "{port: 1, class: admin, bind: [lo]}"), "'lo' is not a valid CIDR", "10.2.0.0/16"),
    "bad on_unresolved": (service("{product: acme, on_unresolved: maybe, ports: [{port: 1, class: admin}]}"), "'maybe' is not one of", "allow, deny"),
    "bad at": (service("{product: acme, at: [nowhere], ports: [{port: 1, class: admin}]}"), "at: 'nowhere' is not a valid CIDR", "write"),
    "at something else": (service("{product: acme, at: {unit: x}, ports: [{port: 1, class: admin}]}"), "or {container: …}", "at: host"),
    "one port at one container": (
        service("{product: acme, at: {container: db-*}, ports: [{port: 7, class: admin}]}").replace(
            "  web:", "  y: {product: acme, at: {container: db-*}, ports: [{port: 7, class: internal}]}\n  web:"
        ),
        "both have port 7/tcp at containers with name db-*",
        "another",
    ),
    "at a pod": (service("{product: acme, at: {pod: {}}, ports: [{port: 1, class: admin}]}"), "not supported by this version yet", "container: {namespace"),
    "two services on one port": (service(PORT % "{port: 80, class: admin}"), "'x' and 'web'", "another port"),
    "two services at one address": (
        service("{product: acme, at: [10.0.0.1/32], ports: [{port: 7, class: admin}]}").replace(
            "  web:", "  y: {product: acme, at: 10.0.0.1, ports: [{port: 7-9, class: admin}]}\n  web:"
        ),
        "both have port 7/tcp at 10.0.0.1/32",
        "write 8-9 in place of 7-9",
    ),
    "one port twice in a service": (service(PORT % "{port: 1-5, class: admin}, {port: 3, class: public}"), "port 3/tcp is already declared", "write 1-2 and 4-5 in place of 1-5"),
    "ranges that overlap in a service": (service(PORT % "{port: 30000-32767, class: admin}, {port: 32000-33000, class: public}"), "port 32000-32767/tcp is already declared", "write 30000-31999 in place of 30000-32767"),
    "a range twice in a service": (service(PORT % "{port: 1-5, class: admin}, {port: 1-5, class: public}"), "port 1-5/tcp is already declared", "remove one"),
    "owner that is no list": (service("{product: acme, owner: {unit: a.service}, ports: [{port: 1, class: admin}]}"), "owner: expected a list", "after a -"),
    "owner with a mistake": (service("{product: acme, owner: [{unit: a}], ports: [{port: 1, class: admin}]}"), "owner: unit 'a' has no type", "a.service"),
    "empty principal": (principal("[]"), "principal 'x' is empty", "add a selector"),
    "principal that is no list": (principal("{unit: a.service}"), "expected a list of selectors", "write - "),
    "principal called anyone": (principal("[{uid: 1}]").replace("  x:", "  anyone:"), "'anyone' is built in", "another name"),
    "relay": (principal("{relay: true, match: [{unit: a.service}]}"), "a relay is not supported by this version yet", "selectors"),
    "selector without keys": (principal("[{}]"), "a selector without a key", "anyone"),
    "unknown selector": (principal("[{units: a.service}]"), "unknown key 'units'", "did you mean 'unit'?"),
    "container key": (principal("[{container: {id: x}}]"), "container: no such key: id", "name, image, pod, namespace"),
    "empty container": (principal("[{container: {}}]"), "an empty mapping", "write one of"),
    "container with a slash": (principal("[{container: /web}]"), "starts with a slash", "write web"),
    "container with a blank": (principal("[{container: 'a b'}]"), "has blanks", "leave them out"),
    "container and unit": (principal("[{container: x, unit: a.service}]"), "both container and unit", "two entries"),
    "pod selector": (principal("[{pod: {namespace: x}}]"), "'pod' is not supported by this version yet", "container: {namespace"),
    "unit and cgroup": (principal("[{unit: a.service, cgroup: /a}]"), "both unit and cgroup", "two entries"),
    "user and uid": (principal("[{user: a, uid: 1}]"), "both user and uid", "two entries"),
    "unit glob": (principal("[{unit: web*.service}]"), "the whole instance of a template", "write app@*.service"),
    "part of an instance": (principal("[{unit: web@a*.service}]"), "the whole instance", "list each unit"),
    "instances of a scope": (principal("[{unit: web@*.scope}]"), "the whole instance", "list each unit"),
    "cgroup too deep": (principal(f"[{{cgroup: {'/a' * 13}}}]"), "13 cgroups deep", "one of those above"),
    "slice too deep": (principal(f"[{{unit: {'-'.join('a' * 13)}.slice}}]"), "13 cgroups deep", "one of those"),
    "cgroup too long": (principal(f"[{{cgroup: /a/{'x' * 254}}}]"), "longer than the 255 bytes", "one of those"),
    "cgroup glob": (principal("[{cgroup: /a/*}]"), "globs are not supported by this version yet", "list each cgroup"),
    "unit template": (principal("[{unit: web@.service}]"), "is a template", "each instance"),
    "unit without type": (principal("[{unit: nginx}]"), "'nginx' has no type", "write nginx.service"),
    "cgroup root": (principal("[{cgroup: /}]"), "'/' is not a path below /", "/proc/PID/cgroup"),
    "relative exe": (principal("[{exe: bin/x}]"), "exe 'bin/x' is not absolute", "whole path"),
    "exe with dots": (principal("[{exe: /a/../b}]"), "not a plain path", "leave out"),
    "exe too deep": (principal(f"[{{exe: {'/a' * 25}}}]"), "deeper than the 24 components", "select by unit"),
    "exe with an open bracket": (principal("[{exe: '/a/[b'}]"), "is not a valid glob", "globs are"),
    "exe with a bad range": (principal("[{exe: '/a/[z-a]'}]"), "is not a valid glob", "globs are"),
    "exe of the wrong type": (principal("[{exe: 7}]"), "expected text, found the number 7", "quote it"),
    "user of the wrong type": (principal("[{user: true}]"), "found true", "quote it"),
    "uid that is a name": (principal("[{uid: root}]"), "expected a number, found 'root'", "user and group"),
    "uid out of range": (principal("[{uid: -1}]"), "-1 is not a valid id", "ids are 0"),
    "bad CIDR": (principal("[{cidr: 10.0.0.0/33}]"), "'10.0.0.0/33' is not a valid CIDR", "10.2.0.0/16"),
    "host bits": (principal("[{cidr: 10.2.3.4/16}]"), "has host bits set", "write 10.2.0.0/16 for the network"),
    "empty list in a selector": (principal("[{cidr: []}]"), "an empty list matches nothing", "remove the key"),
    "undefined principal": (entitlement("{id: b, principals: [bill]}"), "principal 'bill', which is not defined", "did you mean 'billing'?"),
    "undefined service": (entitlement("{id: b, principals: [ops], services: [dbx]}"), "service 'dbx', which is not defined", "did you mean 'db'?"),
    "entitlement without principals": (entitlement("{id: b}"), "lacks 'principals'", "add"),
    "principal twice": (entitlement("{id: b, principals: [ops, ops]}"), "'ops' is listed twice", "remove one"),
    "entitlement twice": (entitlement("{id: app, principals: [ops]}"), "'app' is already defined at policy.yaml:14", "rename"),
    "entitlement of another product": (
        entitlement("{id: b, principals: [ops], services: [x]}").replace(
            "  web:", "  x: {product: other, ports: [{port: 1, class: admin}]}\n  web:"
        ),
        "service 'x' is of product 'other'",
        "license 'other'",
    ),
    "seats": (entitlement("{id: b, principals: [ops], seats: {max: 1}}"), "'seats' is not supported by this version yet", "remove it"),
    "requires": (entitlement("{id: b, principals: [ops], requires: db}"), "'requires' is not supported by this version yet", "remove it"),
    "signed license": (license_("file: a.json"), "'file' is not supported by this version yet", "into the policy"),
    "license twice": (license_("licensee: x").replace("id: l2", "id: l1"), "license 'l1' is already defined at policy.yaml:11", "rename"),
    "license for nothing": (license_("licensee: x").replace("l2, product: acme", "l2, product: acne"), "'acne', which no service has", "did you mean 'acme'?"),
    "naive time": (license_("expires_at: 2027-01-01T00:00:00"), "has no time zone", "2027-01-01T00:00:00Z"),
    "naive time as text": (license_("expires_at: '2027-01-01 00:00'"), "has no time zone", "2027-01-01T00:00:00Z"),
    "a day": (license_("expires_at: 2027-01-01"), "has no time zone", "2027-01-01T00:00:00Z"),
    "a day that is none": (license_("expires_at: 2027-02-30"), "'2027-02-30' is not a valid time", "2027-01-01T00:00:00Z"),
    "a time that is none": (license_("expires_at: soon"), "'soon' is not a valid time", "2027-01-01T00:00:00Z"),
    "a time that UTC has no year for": (license_("expires_at: 9999-12-31T23:59:59-01:00"), "outside the years 1 to 9999 in UTC", "leave out"),
    "a time before the first year of UTC": (license_("starts_at: '0001-01-01T00:00:00+01:00'"), "outside the years 1 to 9999 in UTC", "leave out"),
    "a time that is a number": (license_("expires_at: 2027"), "expected a time, found the number 2027", "2027-01-01"),
    "ends before it starts": (license_("starts_at: 2027-01-01T00:00:00Z, expires_at: 2026-01-01T00:00:00Z"), "expires_at is not after starts_at", "swap"),
    "grace backwards": (license_("expires_at: 2027-01-01T00:00:00Z, terminates_at: 2026-01-01T00:00:00Z"), "terminates_at is before expires_at", "grace"),
    "grace without expiry": (license_("terminates_at: 2026-01-01T00:00:00Z"), "terminates_at without expires_at", "both"),
    "licenses directory": (more("licenses_dir: /etc/x"), "'licenses_dir' is not supported by this version yet", "under licenses"),
    "mode of nothing": (more("enforcement: {dbb: observe}"), "service 'dbb', which is not defined", "did you mean 'db'?"),
    "mode of a class that is not there": (more("enforcement: {web/admin: observe}"), "no admin port", "it has public"),
    "unknown mode": (more("enforcement: {default: strict}"), "'strict' is not a valid mode", "observe or enforce"),
    "restriction without a service": (more("restrictions: [{exclude: ops, target: dbb}]"), "service 'dbb', which is not defined", "'db'"),
    "restriction of nobody": (more("restrictions: [{exclude: opps, target: db}]"), "principal 'opps', which is not defined", "'ops'"),
    "restriction of a bad class": (more("restrictions: [{exclude: ops, target: db/secret}]"), "'db/secret' is not a valid target", "service/class"),
    "restriction of a missing class": (more("restrictions: [{exclude: ops, target: db/public}]"), "has no public port", "internal, admin"),
    "restriction with max": (more("restrictions: [{principal: ops, entitlement: l1/app, max: 5}]"), "'max' is not supported by this version yet", "only"),
    "undeclared_listeners": (more("undeclared_listeners: deny"), "'deny' is not one of ignore", "ignore, report or violation"),
    "tab": ("version: 1\nservices:\n\tdb: {}  #!\n", "not YAML", "spaces, not tabs"),
    "not YAML": ("version: 1\nservices: {db: [}  #!\n", "not YAML", ""),
    "second document": (WHOLE + "--- #!\nversion: 1\n", "a second YAML document", "one document"),
    "custom tag": (more("x: !!python/object:os.system {}"), "is not supported", "remove the tag"),
    "scalar tag": (more("x: !secret y"), "tag !secret is not supported", "remove the tag"),
    "key that YAML reads as a truth": (more("on: 1"), "key 'on' is not text", 'quote it: "on"'),
    "merge key": (more("x: {<<: {a: 1}}"), "merge keys (<<) are not supported", "write the keys out"),
    "alias of nothing": (more("x: *nothing"), "alias *nothing has no anchor", ""),
    "alias of itself": (more("x: &a [*a]"), "alias *a has no anchor", ""),
    "an octal port": (service(PORT % "{port: 0443, class: admin}"), "'0443' is not a plain decimal number", "digits"),
    "a sexagesimal port": (service(PORT % "{port: 22:22, class: admin}"), "'22:22' is not a plain", "quote it"),
    "a hexadecimal port": (service(PORT % "{port: 0x1bb, class: admin}"), "'0x1bb' is not a plain", "digits"),
    "a quoted port with a zero before it": (service(PORT % "{port: '0443', class: admin}"), "'0443' is not a valid port", "5432"),
    "a port in other digits": (service(PORT % "{port: '٤٤٣', class: admin}"), "is not a valid port", "5432"),
    "an octal id": (principal("[{uid: 0100}]"), "'0100' is not a plain decimal number", "digits"),
    "an id with underscores": (principal("[{uid: 1_000}]"), "'1_000' is not a plain decimal number", "digits"),
    "an id with a sign": (principal("[{gid: +5}]"), "'+5' is not a plain decimal number", "digits"),
    "a binary user": (principal("[{user: 0b11}]"), "'0b11' is not a plain decimal number", "digits"),
    "a float with an exponent": (service(PORT % "{port: 4.43e+2, class: admin}"), "'4.43e+2' is not a plain", "digits"),
    "a tagged octal": (service(PORT % "{port: !!int '0443', class: admin}"), "'0443' is not a plain", "digits"),
    "a container of two numbers": (principal("[{container: 22:22}]"), "'22:22' is not a plain", 'quote it where text is meant: "22:22"'),
    "too deep": (more(f"x: {'[' * 30}{']' * 30}"), "nested deeper than 16 levels", ""),
}  # fmt: skip
