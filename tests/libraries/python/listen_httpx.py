"""httpx-sse listens to the address given and prints what it hands out, a JSON object a line."""

import json
import sys
import time

import httpx
from httpx_sse import connect_sse

url, last_id, retry = sys.argv[1], None, 3.0


def say(**line):
    print(json.dumps(line), flush=True)


# It reads one answer: coming back is left to us.
with httpx.Client(timeout=75) as client:
    while True:
        headers = {"Last-Event-ID": last_id} if last_id else {}
        try:
            with connect_sse(client, "GET", url, headers=headers) as source:
                if source.response.status_code in (401, 403):
                    say(ended=str(source.response.status_code))
                    break
                source.response.raise_for_status()
                for event in source.iter_sse():
                    last_id = event.id or last_id
                    retry = retry if event.retry is None else event.retry / 1000
                    say(event=event.event, data=event.data, id=event.id)
        except httpx.HTTPError:
            pass
        time.sleep(retry)
