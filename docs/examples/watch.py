# Prints {"path": …, "seconds": …} whenever a file under a folder changes. The folder comes on standard input.
import json, os, sys, time

folder = sys.stdin.read() or "."
here = os.path.realpath(".")
if os.path.commonpath([here, os.path.realpath(folder)]) != here:
    sys.exit(f"{folder!r} is not in the repository")


def times():
    for base, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in ("target", "node_modules")]
        for name in files:
            path = os.path.join(base, name)
            try:
                yield path, os.stat(path).st_mtime
            except FileNotFoundError:
                pass


seen = dict(times())
while True:
    time.sleep(0.2)
    now = dict(times())
    for path, seconds in now.items():
        if seen.get(path) != seconds:
            print(json.dumps({"path": os.path.relpath(path, folder), "seconds": seconds}))
    seen = now
