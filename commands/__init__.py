"""What each command does: call drills, hand the result to reports, return the exit code. cli.py parses, these call and print."""
