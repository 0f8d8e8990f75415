"""A decoding child that says something senseless instead of getting ready, and stays."""

from __future__ import annotations

import json
import os
import sys
import time

if __name__ == "__main__":
    pipe = json.loads(sys.argv[1])["connection"]
    os.write(pipe, b"\0\0\0\4what")
    time.sleep(60)
