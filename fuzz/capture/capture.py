#!/usr/bin/env python3
"""Captures real ClientHellos into ../corpus/hello: each client below is run against a sink on
loopback that keeps the first flight and never answers.

    ./capture.py             # all clients
    ./capture.py openssl-tls12 chromium

Needs openssl, curl, go, java (11 or newer), chromium and cargo. The files differ from run to run
(randoms, key shares, the order of Chromium's extensions), so after a run the table in
sni-router-core/tests/hello_corpus.rs has to be looked at again.
"""

import os
import pathlib
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading

HERE = pathlib.Path(__file__).resolve().parent
CORPUS = HERE.parent / "corpus" / "hello"
NAME = "www.example.com"
FIRST_BYTE_SECONDS = 60  # go and java compile first
QUIET_SECONDS = 0.5  # the client waits for an answer: its first flight is over


def first_flight(listener):
    listener.settimeout(FIRST_BYTE_SECONDS)
    connection, _ = listener.accept()
    connection.settimeout(FIRST_BYTE_SECONDS)
    flight = b""
    try:
        while chunk := connection.recv(65536):
            flight += chunk
            connection.settimeout(QUIET_SECONDS)
    except TimeoutError:
        pass
    connection.close()
    return flight


def capture(command):
    """The first flight that `command` sends to the port its arguments call PORT."""
    with socket.create_server(("127.0.0.1", 0)) as listener, tempfile.TemporaryDirectory() as scratch:
        port = str(listener.getsockname()[1])
        arguments = [a.replace("PORT", port).replace("SCRATCH", scratch) for a in command]
        client = subprocess.Popen(
            arguments,
            cwd=HERE,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            return first_flight(listener)
        finally:
            try:
                os.killpg(client.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            client.wait()


def s_client(*arguments):
    return lambda: capture(["openssl", "s_client", "-connect", "127.0.0.1:PORT", *arguments])


def curl(*arguments):
    return lambda: capture(
        ["curl", "-s", "-k", "--connect-to", f"{NAME}:443:127.0.0.1:PORT", *arguments, f"https://{NAME}/"]
    )


def chromium():
    return capture([
        "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        "--user-data-dir=SCRATCH", "--host-resolver-rules=MAP * 127.0.0.1:PORT", f"https://{NAME}/",
    ])


def python_ssl():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        def client():
            context = ssl.create_default_context()
            context.set_alpn_protocols(["h2", "http/1.1"])
            with socket.create_connection(listener.getsockname()) as raw:
                try:
                    context.wrap_socket(raw, server_hostname=NAME)
                except OSError:
                    pass

        thread = threading.Thread(target=client)
        thread.start()
        flight = first_flight(listener)
        thread.join()
        return flight


def openssl_ticket(version, *arguments):
    """A resumption: the ticket carries the client's RSA-8192 certificate, as stateless tickets do."""
    def run():
        with tempfile.TemporaryDirectory() as scratch:
            def openssl(*arguments, **options):
                return subprocess.run(
                    ["openssl", *arguments], cwd=scratch, check=True, capture_output=True, **options
                )

            for who, bits in (("server", "2048"), ("client", "8192")):
                openssl("req", "-x509", "-newkey", f"rsa:{bits}", "-nodes", "-keyout", f"{who}.key",
                        "-out", f"{who}.crt", "-subj", f"/CN={who}", "-days", "2")
            with socket.create_server(("127.0.0.1", 0)) as probe:
                port = str(probe.getsockname()[1])
            server = subprocess.Popen(
                ["openssl", "s_server", "-accept", f"127.0.0.1:{port}", version, "-key", "server.key",
                 "-cert", "server.crt", "-verify", "1", "-naccept", "1", "-rev",
                 *(["-max_early_data", "16384"] if "-early_data" in arguments else [])],
                cwd=scratch, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            server.stdout.readline()  # it listens by the time it says anything
            client = subprocess.Popen(
                ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", version, "-servername", NAME,
                 "-key", "client.key", "-cert", "client.crt", "-sess_out", "session"],
                cwd=scratch, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            # The echo comes after the tickets, so they have been written once it is there.
            client.stdin.write(b"ping\n")
            client.stdin.flush()
            for line in client.stdout:
                if b"gnip" in line:  # amid the tickets it prints
                    break
            client.stdin.close()
            client.wait()
            server.kill()
            server.wait()
            return s_client(version, "-servername", NAME, "-sess_in", f"{scratch}/session",
                            *arguments)()
    return run


CLIENTS = {
    "openssl": s_client("-servername", NAME),
    "openssl-alpn": s_client("-servername", NAME, "-alpn", "h2,http/1.1"),
    "openssl-tls12": s_client("-servername", NAME, "-tls1_2"),
    "openssl-tls13": s_client("-servername", NAME, "-tls1_3"),
    "openssl-no-sni": s_client("-noservername"),
    "openssl-ticket-tls12": openssl_ticket("-tls1_2"),
    "openssl-ticket-tls13": openssl_ticket("-tls1_3"),
    "openssl-early-data": openssl_ticket("-tls1_3", "-early_data", "capture.py"),
    "curl": curl(),
    "curl-http1-tls12": curl("--http1.1", "--tls-max", "1.2"),
    "python": python_ssl,
    "go": lambda: capture(["go", "run", "go.go", "127.0.0.1:PORT", NAME]),
    "java": lambda: capture(["java", "Jsse.java", "PORT", NAME]),
    "chromium": chromium,
    "rustls": lambda: capture(["cargo", "run", "-q", "--example", "rustls_client", "127.0.0.1:PORT", NAME]),
    "rustls-ech-grease": lambda: capture(
        ["cargo", "run", "-q", "--example", "rustls_client", "127.0.0.1:PORT", NAME, "ech-grease"]
    ),
}


def main():
    CORPUS.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[1:] or CLIENTS:
        flight = CLIENTS[name]()
        if not flight:
            sys.exit(f"{name}: the client sent nothing")
        (CORPUS / f"{name}.bin").write_bytes(flight)
        print(f"{name}: {len(flight)} bytes")


if __name__ == "__main__":
    main()
