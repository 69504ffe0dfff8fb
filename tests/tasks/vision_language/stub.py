"""A server that speaks OpenAI's protocol and answers as a test says."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def serving(answer, *, models=("stub",), status=lambda n: 200):
    """The address of a server and the list of its requests.

    answer: called as answer(messages, number of the request), gives a text, or a dict to send as it is.
    status: called with the number of the request.
    """
    requests = []
    guard = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args):
            pass

        def send(self, code, content):
            body = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(body)))
            if code in (301, 302, 307):
                self.send_header("Location", "http://127.0.0.1:9/elsewhere")
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self):
            self.send(200, {"data": [{"id": name} for name in models]})

        def do_POST(self):
            content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with guard:
                requests.append({"path": self.path, "key": self.headers.get("Authorization"), **content})
                number = len(requests) - 1
            code = status(number)
            if code != 200:
                return self.send(code, {"error": {"message": "not now"}})
            told = answer(content["messages"], number)
            if isinstance(told, str):
                told = {"choices": [{"message": {"role": "assistant", "content": told}, "finish_reason": "stop"}]}
            self.send(200, told)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=lambda: server.serve_forever(0.01), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", requests
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
