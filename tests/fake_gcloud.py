"""A cloud in a folder: gcloud whose machines are folders of this one, and whose ssh runs the command there.

The folder FAKE_CLOUD has a file ``calls`` (argv, a JSON list a line), for each slice a folder ``slices/NAME`` with its
state in the file ``state`` and a home for each worker, and ``buckets``. ``workers`` says how many workers a slice gets,
``environment-I`` what worker I has in its environment beside ours, ``queue`` the state of a queued resource,
``refuse`` words of a command that fails.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

CLOUD = Path(os.environ["FAKE_CLOUD"])


def main(argv: list[str]) -> int:
    with open(CLOUD / "calls", "a") as file:
        file.write(json.dumps(argv) + "\n")
    given = [word for word in argv if not word.startswith("--")]
    options = dict(word[2:].partition("=")[::2] for word in argv if word.startswith("--"))
    refused = CLOUD / "refuse"
    if refused.exists() and refused.read_text() in " ".join(argv):
        print("ERROR: there is no more capacity in the zone", file=sys.stderr)
        return 1
    match given:
        case ["compute", "tpus", "tpu-vm" | "queued-resources", action, *rest]:
            return tpu(action, rest, options, queued="queued-resources" in given)
        case ["compute", "instance-groups", "managed", action, name]:
            return group(action, name, options)
        case ["compute", "ssh", instance]:
            return on(CLOUD / "slices" / instance.rpartition("-")[0], instance.rpartition("-")[2], options["command"])
        case ["compute", "instance-templates", "create", _]:
            shutil.copy(options["metadata-from-file"].partition("=")[2], CLOUD / "startup.sh")
            return 0
        case ["compute", "instance-templates" | "resource-policies", *_]:
            return 0
        case ["storage", "cp", source, target]:
            return copy(source, target)
    print(f"ERROR: fake gcloud does not know {argv}", file=sys.stderr)
    return 2


def tpu(action: str, rest: list[str], options: dict[str, str], queued: bool) -> int:
    folder = CLOUD / "slices" / rest[-1].rstrip(":")
    match action:
        case "create":
            make(folder)
        case "delete":
            remove(folder)
        case "describe":
            if queued and (CLOUD / "queue").exists():
                print((CLOUD / "queue").read_text())
                return 0
            if not (folder / "state").exists():
                print(f"ERROR: NOT_FOUND: Resource {folder.name} was not found", file=sys.stderr)
                return 1
            state = (folder / "state").read_text()
            print("ACTIVE" if queued and state == "READY" else state)
        case "scp":
            for home in homes(folder):
                shutil.copy(rest[0], home)
        case "ssh":
            return on(folder, options["worker"], options["command"])
    return 0


def group(action: str, name: str, options: dict[str, str]) -> int:
    folder = CLOUD / "slices" / name
    match action:
        case "create":
            make(folder)
        case "delete":
            remove(folder)
        case "list-instances":
            if not folder.exists():
                print(f"ERROR: The resource {name} was not found", file=sys.stderr)
                return 1
            for i, _ in enumerate(homes(folder)):
                print(f"{name}-{i}\t{(folder / 'state').read_text().replace('READY', 'RUNNING')}")
    return 0


def make(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "state").write_text("READY")
    for i in range(int((CLOUD / "workers").read_text())):
        (folder / f"worker-{i}").mkdir()


def remove(folder: Path) -> None:
    """The machine goes, and what runs on it with it."""
    for home in homes(folder):
        (home / "gone").touch()
        pid = home / "marble-run" / "pid"
        if pid.exists():
            subprocess.run(["pkill", "-KILL", "--session", pid.read_text().strip()])
    shutil.rmtree(folder, ignore_errors=True)


def homes(folder: Path) -> list[Path]:
    return sorted(folder.glob("worker-*"))


def on(folder: Path, worker: str, command: str) -> int:
    """Runs the command on one worker, or on all at once; ends with the first status that is not 0."""
    started = []
    for i, home in enumerate(homes(folder)):
        if worker in ("all", str(i)):
            more = CLOUD / f"environment-{i}"
            env = {**os.environ, **(json.loads(more.read_text()) if more.exists() else {}), "HOME": str(home)}
            started.append(subprocess.Popen(["bash", "-c", command], cwd=home, env=env, stdin=subprocess.DEVNULL))
    return next((status for status in [process.wait() for process in started] if status), 0)


def copy(source: str, target: str) -> int:
    def path(name: str) -> Path:
        return CLOUD / "buckets" / name.removeprefix("gs://") if name.startswith("gs://") else Path(name)

    if target == "-":
        sys.stdout.buffer.write(path(source).read_bytes())
    else:
        path(target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path(source), path(target))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
