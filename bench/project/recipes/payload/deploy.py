import io
import random

from pyinfra import host
from pyinfra.operations import files

payload = random.Random(host.data.seed).randbytes(16 << 20)
files.put(name="Write the payload", src=io.BytesIO(payload), dest="/srv/payload")
files.put(name="Write a note", src=io.BytesIO(f"{host.data.note}\n".encode()), dest="/srv/note")
