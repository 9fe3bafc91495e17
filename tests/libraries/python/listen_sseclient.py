"""sseclient-py over requests listens to the address given and prints what it hands out, a JSON object a line."""

import json
import sys
import time

import requests
import sseclient

url, last_id, retry = sys.argv[1], None, 3.0


def say(**line):
    print(json.dumps(line), flush=True)


# It reads one answer: coming back is left to us.
while True:
    headers = {"Accept": "text/event-stream"}
    if last_id:
        headers["Last-Event-ID"] = last_id
    try:
        with requests.get(url, headers=headers, stream=True, timeout=75) as response:
            if response.status_code in (401, 403):
                say(ended=str(response.status_code))
                break
            response.raise_for_status()
            for event in sseclient.SSEClient(response).events():
                last_id = event.id or last_id
                retry = int(event.retry) / 1000 if event.retry else retry
                say(event=event.event, data=event.data, id=last_id)
    except requests.RequestException:
        pass
    time.sleep(retry)
