import atexit
import os
import socket
import subprocess
import sys
import time

with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    PORT = s.getsockname()[1]
URL = f"http://127.0.0.1:{PORT}"
SERVER = subprocess.Popen([sys.executable, "app.py"], env={**os.environ, "PORT": str(PORT)})
atexit.register(SERVER.kill)
for _ in range(200):
    with socket.socket() as s:
        if s.connect_ex(("127.0.0.1", PORT)) == 0:
            break
    time.sleep(0.05)
