"""What keeps a container of ours up for as long as an agent in it holds a fault, and no longer."""

from typing import Final

# Its argument: seconds, after which it ends in any case; one in which no agent ever has left a record ends after a minute.
SLEEP: Final = (
    "import glob,signal,sys,time\nsignal.signal(15,lambda *_:sys.exit(0))\nbegan=time.monotonic();seen=False\n"
    "while time.monotonic()<began+(float(sys.argv[1]) if seen else 60):\n time.sleep(0.2)\n"
    " there=bool(glob.glob('/tmp/blackstart-*.json')+glob.glob('/dev/shm/blackstart-*.json'))\n"
    " if seen and not there:\n  time.sleep(3)\n  break\n seen=seen or there"  # whoever undid it has not said so yet
)
