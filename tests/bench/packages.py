"""Measures installations beside uv, pip and npm alone: with empty caches, with filled caches, and a second installation of
the same version. `tests/bench/packages.py --quick` does one pass. `MCP_API` names another program, `UV_BIN` the uv.
"""
import argparse, json, os, shutil, statistics, subprocess, tempfile, time

import bench
from bench import ROOT, Target, free_port

bench.BIN = os.environ.get("MCP_API", bench.BIN)
UV = os.environ.get("UV_BIN", f"{ROOT}/target/services/uv/bin/uv")
PYTHON = subprocess.run(["python3", "-c", "import sys; print(sys.executable)"], capture_output=True,
                        text=True, check=True).stdout.strip()
PYPI, NPM = ("mcp-server-time", "2026.10.19"), ("@modelcontextprotocol/server-memory", "2026.8.31")
# Packages of this machine would not come from the index.
os.environ.pop("PIP_FIND_LINKS", None)
# Servers get no such variable from the program.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def timed(action):
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def run(*command, **env):
    subprocess.run(command, env={**os.environ, **env}, check=True, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)


class Place:
    """Folders of one pass: caches, and what is installed with them."""

    def __init__(self):
        self.folder, self.count = tempfile.mkdtemp(), 0

    def new(self):
        self.count += 1
        path = f"{self.folder}/{self.count}"
        os.mkdir(path)
        return path

    def remove(self):
        shutil.rmtree(self.folder)


def uv_alone(place, cache):
    """One environment and one installation, as a person types them."""
    venv, env = f"{place.new()}/venv", {"UV_CACHE_DIR": f"{cache}/uv-alone"}

    def install():
        run(UV, "venv", "--python", PYTHON, venv, **env)
        run(UV, "pip", "install", "--python", f"{venv}/bin/python", "==".join(PYPI), **env)
    return timed(install)


def pip_alone(place, cache):
    venv, env = f"{place.new()}/venv", {"PIP_CACHE_DIR": f"{cache}/pip-alone"}

    def install():
        run(PYTHON, "-m", "venv", venv)
        run(f"{venv}/bin/python", "-m", "pip", "install", "==".join(PYPI), **env)
    return timed(install)


def npm_alone(place, cache, ci):
    """`npm ci` of a finished lockfile, or `npm install` without a lockfile."""
    folder, options = place.new(), ["--no-audit", "--no-fund", "--prefix"]
    manifest = {"private": True, "dependencies": {NPM[0]: NPM[1]}}
    with open(f"{folder}/package.json", "w") as file:
        json.dump(manifest, file)
    if ci:
        run("npm", "install", "--package-lock-only", *options, folder, npm_config_cache=f"{place.new()}/lock")
    return timed(lambda: run("npm", "ci" if ci else "install", *options, folder,
                             npm_config_cache=f"{cache}/npm-alone"))


class Program:
    """The program on an empty folder, with caches that other programs may have filled."""

    def __init__(self, place, cache, uv, program=None):
        port, name = free_port(), "uv" if uv else "pip"
        env = {"PORT": str(port), "DATA_DIR": place.new(), "RUST_LOG": "warn", "UV_BIN": UV if uv else "none",
               "PIP_CACHE_DIR": f"{cache}/{name}", "npm_config_cache": f"{cache}/npm"}
        self.data = env["DATA_DIR"]
        self.target = Target("mcp-api", [program or bench.BIN, "serve"], port, env=env)
        self.target.wait()

    def install(self, package, server, enabled=False, version=True):
        body = {"name": package[0], "serverName": server, "enabled": enabled,
                "runtime": "python" if package is PYPI else "node"}
        if version:
            body["version"] = package[1]

        def send():
            status, text, _ = self.target.request("POST", "/packages/install", json.dumps(body), timeout=300)
            assert status == 200, text
        return timed(send)


def once(place, cache, uv, package, program=None):
    running = Program(place, cache, uv, program)
    try:
        return running.install(package, "one")
    finally:
        running.target.stop()


def own_start(command):
    """The time from the start of a server to its list of tools."""
    began = time.perf_counter()
    server = subprocess.Popen([command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "bench", "version": "0"}}
    messages = [{"id": 1, "method": "initialize", "params": hello}, {"method": "notifications/initialized"},
                {"id": 2, "method": "tools/list"}]
    for message in messages:
        server.stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
        server.stdin.flush()
        if "id" in message:
            server.stdout.readline()
    took = time.perf_counter() - began
    server.stdin.close()
    server.wait(20)
    return took


def second(place, cache, package, command):
    """A second installation, with its version and as the newest version, and the start of its server."""
    running = Program(place, cache, True)
    try:
        running.install(package, "one", enabled=True)
        with_version = running.install(package, "two", enabled=True)
        newest = running.install(package, "three", enabled=True, version=False)
        folder = "packages/python/one" if package is PYPI else "packages/one"
        start = own_start(f"{running.data}/{folder}/{command}")
    finally:
        running.target.stop()
    return with_version, newest, start


def compare(title, rows, base):
    print(f"\n| {title} | median | of the first row |\n|---|---|---|")
    first = statistics.median(rows[base])
    for name, times in rows.items():
        median = statistics.median(times)
        print(f"| {name} | {median:.2f} s | {median / first:.2f} |")


def installations(args):
    python = {"empty caches": {}, "filled caches": {}}
    node = {"empty caches": {}, "filled caches": {}}
    actions = {
        "uv alone (`uv venv`, `uv pip install`)": lambda place, cache: uv_alone(place, cache),
        "mcp-api with uv": lambda place, cache: once(place, cache, True, PYPI),
        "mcp-api with pip": lambda place, cache: once(place, cache, False, PYPI),
        "pip alone (`python -m venv`, `pip install`)": lambda place, cache: pip_alone(place, cache),
    }
    if args.before:
        actions["mcp-api before"] = lambda place, cache: once(place, cache, False, PYPI, args.before)
    node_actions = {
        "`npm ci` alone": lambda place, cache: npm_alone(place, cache, True),
        "`npm install` alone": lambda place, cache: npm_alone(place, cache, False),
        "mcp-api": lambda place, cache: once(place, cache, True, NPM),
    }
    if args.before:
        node_actions["mcp-api before"] = lambda place, cache: once(place, cache, False, NPM, args.before)
    for _ in range(args.passes):
        place = Place()
        cache = place.new()
        for state in ("empty caches", "filled caches"):
            for rows, all_actions in ((python, actions), (node, node_actions)):
                for name, action in all_actions.items():
                    own = f"{cache}/{name.replace('/', ' ')}"
                    os.makedirs(own, exist_ok=True)
                    rows[state].setdefault(name, []).append(action(place, own))
        place.remove()
    for state in python:
        compare(f"{PYPI[0]}, {state}", python[state], next(iter(actions)))
    for state in node:
        compare(f"{NPM[0]}, {state}", node[state], next(iter(node_actions)))


def repeated(args):
    print("\n| a second installation, and the start of its server | version given | newest version | start of the server |\n|---|---|---|---|")
    for package, command in ((PYPI, "bin/mcp-server-time"), (NPM, "node_modules/.bin/mcp-server-memory")):
        place = Place()
        cache = place.new()
        passes = [second(place, cache, package, command) for _ in range(args.passes)]
        place.remove()
        medians = [f"{statistics.median(times):.2f} s" for times in zip(*passes)]
        print(f"| {package[0]} | {' | '.join(medians)} |")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--before", help="an earlier program to compare with")
    parser.add_argument("--only", choices=["installations", "repeated"])
    args = parser.parse_args()
    args.passes = 1 if args.quick else 3
    if args.only != "repeated":
        installations(args)
    if args.only != "installations":
        repeated(args)


if __name__ == "__main__":
    main()
