# Ways out of a guest, run inside it as root. Nothing here says whether one succeeded: that is told by where it would have arrived.
import concurrent.futures, json, os, socket, ssl, struct, sys, time

GUEST, GATEWAY, GUEST_MAC = "169.254.0.21", "169.254.0.22", "02fc00000005"
TIMEOUT = 3.0


def mac_of_gateway():
    poke = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for _ in range(20):
        poke.sendto(b"", (GATEWAY, 9))
        for line in open("/proc/net/arp").read().splitlines()[1:]:
            fields = line.split()
            if fields[0] == GATEWAY and fields[3] != "00:00:00:00:00:00":
                return bytes.fromhex(fields[3].replace(":", ""))
        time.sleep(0.1)
    return b"\xff" * 6


def checksum(data):
    data += bytes(len(data) % 2)
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def frame(payload, kind=0x0800, to=None, source=GUEST_MAC):
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    s.bind(("eth0", 0))
    s.send((to or GATEWAY_MAC) + bytes.fromhex(source) + struct.pack("!H", kind) + payload)


def ip(protocol, host, payload, source=GUEST, offset=0, more=False, ttl=64, options=b""):
    """An IPv4 packet."""
    fragment = (0x2000 if more else 0) | (offset // 8)
    words = 5 + len(options) // 4
    head = struct.pack("!BBHHHBBH4s4s", 0x40 | words, 0, words * 4 + len(payload), 7, fragment, ttl, protocol, 0, socket.inet_aton(source), socket.inet_aton(host))
    head = head[:10] + struct.pack("!H", checksum(head + options)) + head[12:]
    return head + options + payload


def udp_segment(port, payload=b"battery", sport=30000):
    return struct.pack("!HHHH", sport, port, 8 + len(payload), 0) + payload


def tcp_segment(host, port, flags, source=GUEST, sport=30001):
    head = struct.pack("!HHIIBBHHH", sport, port, 1000, 0, 0x50, flags, 65000, 0, 0)
    pseudo = socket.inet_aton(source) + socket.inet_aton(host) + struct.pack("!BBH", 0, 6, len(head))
    return head[:16] + struct.pack("!H", checksum(pseudo + head)) + head[18:]


def packet(protocol, host, payload=b"battery-battery-", **more):
    frame(ip(protocol, host, payload, **more))


def raw_udp(host, port, payload=b"battery", sport=30000, **more):
    frame(ip(17, host, udp_segment(port, payload, sport), **more))


def raw_tcp(host, port, flags=2, **more):
    frame(ip(6, host, tcp_segment(host, port, flags, more.get("source", GUEST), port), **more))


def crc32c(data):
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF


def sctp(host):
    """The beginning of an association."""
    chunk = struct.pack("!BBHIIHHI", 1, 0, 20, 77, 65536, 1, 1, 5)
    head = struct.pack("!HHI", 30002, 9, 0)
    packet(132, host, head + struct.pack("<I", crc32c(head + bytes(4) + chunk)) + chunk)


def icmp(host, kind=8, code=0, body=b"\0\1\0\1battery", **more):
    head = struct.pack("!BBH", kind, code, 0) + body
    frame(ip(1, host, head[:2] + struct.pack("!H", checksum(head)) + head[4:], **more))


def fragments(host, port):
    """A datagram in two pieces, the first of which has no whole header."""
    whole = udp_segment(port, b"f" * 24)
    frame(ip(17, host, whole[:8], more=True))
    frame(ip(17, host, whole[8:], offset=8))


def arp(sender, target, operation=1, mac=GUEST_MAC, to=b"\xff" * 6):
    body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation) + bytes.fromhex(mac) + socket.inet_aton(sender) + bytes(6) + socket.inet_aton(target)
    frame(body, 0x0806, to, mac)


def ip6(next_header, source, host, payload, to=b"\x33\x33\0\0\0\1"):
    head = struct.pack("!IHBB", 0x60000000, len(payload), next_header, 255) + socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, host)
    frame(head + payload, 0x86DD, to)


def udp(host, port, payload=b"battery", family=socket.AF_INET, broadcast=False):
    s = socket.socket(family, socket.SOCK_DGRAM)
    if broadcast:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    s.sendto(payload, (host, port))


def tcp(host, port, *pieces, family=socket.AF_UNSPEC, pause=0.05):
    """Connects, by whatever notation the C library reads, sends each piece in a segment of its own, and returns what comes back."""
    error = None
    for kind, _, _, _, address in socket.getaddrinfo(host, port, family, socket.SOCK_STREAM):
        s = socket.socket(kind, socket.SOCK_STREAM)
        s.settimeout(TIMEOUT)
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            s.connect(address)
            for piece in pieces or [b"battery"]:
                s.sendall(piece)
                time.sleep(pause)
            got = b""
            while chunk := s.recv(65536):
                got += chunk
            return got
        except OSError as failed:
            error = failed
        finally:
            s.close()
    raise error


def http(host, address, marker, head="GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n", port=80):
    return tcp(address, port, head.format(host=host, path="/" + marker).encode("latin1"))


def hello(name, extra=b"", session=None):
    """A TLS greeting; `extra` are extensions more."""
    out = ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    connection = context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=name)
    try:
        connection.do_handshake()
    except ssl.SSLWantReadError:
        pass
    body = bytearray(out.read()[9:])
    at = 34
    at += 1 + body[at]
    at += 2 + struct.unpack("!H", body[at : at + 2])[0]
    at += 1 + body[at]
    extensions = bytes(body[at + 2 :]) + extra
    body = bytes(body[:at]) + struct.pack("!H", len(extensions)) + extensions
    return b"\x01" + struct.pack("!I", len(body))[1:] + body


def records(handshake, size=16000, whole=b""):
    """In TLS records of a size each, but for `whole`, which is not cut: it is looked for later."""
    parts, at = [], 0
    while at < len(handshake):
        end = at + size
        kept = handshake.find(whole) if whole else -1
        if kept < end < kept + len(whole):
            end = kept + len(whole)
        parts.append(handshake[at:end])
        at = end
    return b"".join(b"\x16\x03\x01" + struct.pack("!H", len(part)) + part for part in parts)


def tls(name, address, pieces=1, size=16000, extra=b""):
    whole = records(hello(name, extra), size, (name or "").split(".")[0].encode())
    step = -(-len(whole) // pieces)
    return tcp(address, 443, *[whole[at : at + step] for at in range(0, len(whole), step)])


ECH = struct.pack("!HH", 0xFE0D, 42) + b"\0\0\1\0\1\7" + b"\0\x20" + b"e" * 32 + b"\0\0"


def question(name, kind=1):
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return b"\x12\x34\1\0\0\1\0\0\0\0\0\0" + labels + b"\0" + struct.pack("!HH", kind, 1)


def dns(server, name, kind=1, port=53):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(TIMEOUT)
    s.sendto(question(name, kind), (server, port))
    return s.recv(2000)


def dns_tcp(server, name, kind=1):
    asked = question(name, kind)
    return tcp(server, 53, struct.pack("!H", len(asked)) + asked)


def several(*calls):
    """All of them at once, whatever becomes of each."""

    def quietly(call):
        try:
            call()
        except OSError:
            pass

    with concurrent.futures.ThreadPoolExecutor(len(calls)) as each:
        list(each.map(quietly, calls))


def attempt(source):
    try:
        return repr(eval(source, globals()))[:120]
    except Exception as error:  # whatever a guest's program may meet
        return type(error).__name__ + ": " + str(error)[:100]


GATEWAY_MAC = mac_of_gateway()
calls = json.load(sys.stdin)
with concurrent.futures.ThreadPoolExecutor(32) as pool:
    print(json.dumps(list(pool.map(attempt, calls))))
