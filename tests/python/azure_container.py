"""Creates a container in the Azure emulator.

Usage: azure_container.py http://host:port/account name key
"""

import base64
import datetime
import hashlib
import hmac
import sys
import urllib.parse
import urllib.request

endpoint, name, key = sys.argv[1:]
account = urllib.parse.urlparse(endpoint).path.strip("/")
date = datetime.datetime.now(datetime.timezone.utc).strftime("%a, %d %b %Y %H:%M:%S GMT")
version = "2021-08-06"
to_sign = "\n".join(
    ["PUT"]
    + [""] * 11
    + [f"x-ms-date:{date}", f"x-ms-version:{version}"]
    + [f"/{account}/{account}/{name}", "restype:container"]
)
signature = hmac.new(base64.b64decode(key), to_sign.encode(), hashlib.sha256).digest()
request = urllib.request.Request(f"{endpoint}/{name}?restype=container", method="PUT", data=b"")
request.add_header("Content-Length", "0")
request.add_unredirected_header("x-ms-date", date)
request.add_header("x-ms-version", version)
request.add_header("Content-Type", "")
request.add_header("Authorization", f"SharedKey {account}:{base64.b64encode(signature).decode()}")
urllib.request.urlopen(request)
