"""Start a command in a session of its own, so that it outlives whoever started it.

    detach.py LOG COMMAND [ARGUMENT...]

Standard input is /dev/null, output is added to LOG. Prints one JSON line: {"pid": 1234}, or {"why": "..."} when the command
could not be executed.
"""

import json
import os
import sys


def main(log: str, command: list[str]) -> None:
    told, tell = os.pipe()  # closed by a successful exec; anything read from it is the reason why there was none
    pid = os.fork()
    if pid == 0:
        os.setsid()
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for number, descriptor in enumerate((os.open(os.devnull, os.O_RDONLY), output, output)):
            os.dup2(descriptor, number)
        try:
            os.execvp(command[0], command)  # noqa: S606 - a command from the service file, without a shell
        except OSError as error:
            os.write(tell, f"{command[0]}: {error.strerror}".encode())
            os._exit(127)
    os.close(tell)
    why = os.read(told, 4096).decode()
    sys.stdout.write(json.dumps({"why": why} if why else {"pid": pid}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
