"""Starts the gateways that tests/bench/gateways.py measures, and calls them. Each gateway runs the same stdio child."""
import copy, glob, http.client, itertools, json, os, shutil, signal, subprocess, time

import bench
from bench import ECHO, ROOT, SECRET, free_port, initialize, ours, pass_through, tree, variant
from users import pss_mib

CHILD = os.path.realpath(ECHO)
INSTALLED = f"{ROOT}/target/gateways"
LOOPBACK = f"{ROOT}/tests/it/fixtures/loopback.cjs"
ADMIN_TOKEN = "an-admin-token-of-the-benchmark"
AS_ADMIN = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
ENDPOINT = "/mcp/servers/echo/mcp"
PROTOCOL = "2025-06-18"
TEXT = "from the caller"
REQUEST_IDS = itertools.count(1)
# Limits in seconds: for the first good answer, and for a call.
START_LIMIT, CALL_LIMIT = 60, 5


class Gateway(bench.Target):
    """A running gateway with a process group of its own."""

    started, mcp = [], False

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.started.append(self)

    def stop(self):
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.process.pid, number)
                self.process.wait(5)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                pass

    def processes(self):
        """Returns the processes of the gateway, and the children behind it."""
        own, children = [], []
        for pid in tree(self.process.pid):
            try:
                (children if os.readlink(f"/proc/{pid}/exe") == CHILD else own).append(pid)
            except OSError:
                pass
        return own, children

    def memory_mib(self):
        total = 0
        for pid in self.processes()[0]:
            try:
                total += pss_mib(pid) or 0
            except OSError:
                pass
        return total

    def open_session(self):
        self.headers = {**self.headers, "Accept": "application/json, text/event-stream"}
        hello = {"jsonrpc": "2.0", "id": "hello", "method": "initialize", "params": {
            "protocolVersion": PROTOCOL, "capabilities": {}, "clientInfo": {"name": "bench", "version": "0"}}}
        status, body, headers = self.request("POST", self.path, json.dumps(hello), timeout=CALL_LIMIT)
        if status != 200 or b"serverInfo" not in body:
            raise RuntimeError(f"`initialize` fails: {status} {body[:60]}")
        self.session = headers["mcp-session-id"]
        self.headers["MCP-Protocol-Version"] = PROTOCOL
        session = {"Mcp-Session-Id": self.session} if self.session else {}
        initialized = json.dumps({"jsonrpc": "2.0", "method": "notifications/initialized"})
        self.request("POST", self.path, initialized, session, timeout=CALL_LIMIT)

    def in_new_session(self):
        other = copy.copy(self)
        if self.mcp:
            other.open_session()
        return other

    def with_texts(self):
        """Returns a target in a new session whose answers hold the texts of the calls. A call of mcp-api still has a secret."""
        if self.name != "mcp-api":
            return self.in_new_session()
        secret = {"username": "other", "serverName": "echo", "secretName": "token", "secretValue": SECRET}
        self.request("POST", "/secrets/set", json.dumps(secret), AS_ADMIN)
        if self.mcp:
            return as_user(self, "other")
        other = copy.copy(self)
        other.body = json.dumps({**json.loads(self.body), "username": "other"})
        return other

    def first_answer(self, began):
        """Returns the seconds from the start to the first good answer. Opens the session of the later calls."""
        answer = ""
        while time.perf_counter() < began + START_LIMIT:
            try:
                if self.mcp and not self.session:
                    self.open_session()
                good, answer = Client(self).call()
                if good:
                    return time.perf_counter() - began
            except (OSError, http.client.HTTPException, RuntimeError) as error:
                answer = error
            if self.process.poll() is not None:
                raise RuntimeError(f"the gateway ended with status {self.process.returncode}")
            time.sleep(0.01)
        raise RuntimeError(f"no good answer in {START_LIMIT} s: {answer}")


# The functions of bench.py start their programs with this class too, so gateways.py stops every program.
bench.Target = Gateway


class Client:
    """One connection, which sends one call after the other."""

    def __init__(self, target):
        self.target = target
        self.connection = http.client.HTTPConnection("127.0.0.1", target.port, timeout=CALL_LIMIT)

    def call(self, text=TEXT):
        """Returns whether the answer is good, and the answer."""
        target = self.target
        body = target.body.replace("__ID__", str(next(REQUEST_IDS))).replace(TEXT, text)
        headers = {"Content-Type": "application/json", **target.headers}
        if target.session:
            headers["Mcp-Session-Id"] = target.session
        try:
            self.connection.request("POST", target.path, body, headers)
            response = self.connection.getresponse()
            answer = response.read().decode(errors="replace")
        except (OSError, http.client.HTTPException) as error:
            self.connection.close()
            return False, f"{type(error).__name__} {error}"
        expected = target.expect if text == TEXT else text
        return response.status == 200 and expected in answer, f"{response.status} {answer}"


def as_user(target, user):
    """Returns mcp-api with a token and a session of the user."""
    _, answer, _ = target.request("POST", "/tokens", json.dumps({"username": user}), AS_ADMIN)
    token = json.loads(answer)["token"]
    other = variant(target, "mcp-api", token, ENDPOINT, "echo", initialize(target, token, ENDPOINT))
    other.mcp = True
    return other


def start_rest(folder):
    return ours(folder, {"command": ECHO}, {"ADMIN_TOKEN": ADMIN_TOKEN})


def start_mcpway(program):
    """Starts mcpway, which listens on all addresses. No option of version 0.2.1 changes this."""
    target = bench.mcpway(program)
    target.mcp = True
    return target


def starter(path, *command, rest_body=None):
    """Returns a function that starts a gateway with a free port in place of PORT and a temporary folder in place of FOLDER."""
    def start(folder):
        port = free_port()
        with open(f"{folder}/mcp.json", "w") as config:
            json.dump({"mcpServers": {"echo": {"command": ECHO, "args": []}}}, config)
        words = [word.replace("PORT", str(port)).replace("FOLDER", folder) for word in command]
        target = Gateway(command[0], words, port, path)
        target.mcp = rest_body is None
        params = {"name": "echo", "arguments": {"message": TEXT}}
        target.body = json.dumps(rest_body or {"jsonrpc": "2.0", "id": "__ID__", "method": "tools/call", "params": params})
        return target
    return start


def version(source):
    """Returns the version of a program or of a package (npm/NAME, cargo/NAME, FOLDER/NAME of a Python environment), if known."""
    folder, _, package = source.partition("/")
    try:
        if os.path.isabs(source):
            return subprocess.check_output([source, "--version"], text=True, timeout=10).split()[-1]
        if folder == "npm":
            return json.load(open(f"{INSTALLED}/npm/node_modules/{package}/package.json"))["version"]
        if folder == "cargo":
            return open(f"{INSTALLED}/.crates.toml").read().split(f'"{package} ')[1].split()[0]
        found = glob.glob(f"{INSTALLED}/{folder}/lib/python3*/site-packages/{package}-*.dist-info")
        return found[0].removesuffix(".dist-info").rsplit("-", 1)[1]
    except (OSError, subprocess.SubprocessError, IndexError):
        return ""


def gateways():
    """Returns for each name: the label, the program, the source of the version, and the function that starts the gateway."""
    listen = ("--host", "127.0.0.1", "--port", "PORT")
    node, modules = ("node", "-r", LOOPBACK), f"{INSTALLED}/npm/node_modules/.bin"
    mcpway, mcpway_version = f"{INSTALLED}/bin/mcpway", "cargo/mcpway"
    if not os.path.exists(mcpway) and shutil.which("mcpway"):
        mcpway, mcpway_version = shutil.which("mcpway"), ""
    proxy, fastmcp, mcpo = (f"{INSTALLED}/{path}" for path in (
        "mcp-proxy-pypi/bin/mcp-proxy", "fastmcp/bin/fastmcp", "mcpo/bin/mcpo"))
    return {
        "pass-through": ("pass-through (REST)", ECHO, "", lambda _: pass_through("pass-through", ECHO)),
        "mcp-api": ("mcp-api (MCP)", bench.BIN, bench.BIN, lambda folder: as_user(start_rest(folder), "u")),
        "mcp-api-rest": ("mcp-api (REST)", bench.BIN, bench.BIN, start_rest),
        "mcpway": ("mcpway", mcpway, mcpway_version, lambda _: start_mcpway(mcpway)),
        "mcp-proxy-pypi": ("mcp-proxy (PyPI)", proxy, "mcp-proxy-pypi/mcp_proxy", starter(
            "/mcp/", proxy, *listen, "--log-level", "WARNING", "--", ECHO)),
        "mcp-proxy-npm": ("mcp-proxy (npm)", f"{modules}/mcp-proxy", "npm/mcp-proxy", starter(
            "/mcp", *node, f"{modules}/mcp-proxy", *listen, "--server", "stream", "--", ECHO)),
        "supergateway": ("supergateway", f"{modules}/supergateway", "npm/supergateway", starter(
            "/mcp", *node, f"{modules}/supergateway", "--stdio", ECHO, "--outputTransport", "streamableHttp", "--stateful",
            "--port", "PORT", "--logLevel", "none")),
        "fastmcp": ("fastmcp, proxy", fastmcp, "fastmcp/fastmcp", starter(
            "/mcp", fastmcp, "run", "FOLDER/mcp.json", "--transport", "http", *listen, "--no-banner", "--log-level", "WARNING")),
        "mcpo": ("mcpo (REST)", mcpo, "mcpo/mcpo", starter(
            "/echo", mcpo, *listen, "--log-level", "WARNING", "--", ECHO, rest_body={"message": TEXT})),
    }
