"""An S3 server in memory: s3_server.py PORT

moto on a single thread, so that conditional writes are linearizable. Tests of concurrent runs rely
on that.
"""

import sys

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple

application = DomainDispatcherApplication(create_backend_app)
run_simple("127.0.0.1", int(sys.argv[1]), application, threaded=False)
