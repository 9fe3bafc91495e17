// r3labs/sse listens to the address given and prints what it hands out, a JSON object a line.
package main

import (
	"encoding/json"
	"os"
	"strconv"
	"time"

	"github.com/r3labs/sse/v2"
)

// Bytes; its own limit is 64 KiB.
const longestMessage = 2 << 20

func main() {
	out := json.NewEncoder(os.Stdout)
	retry := 3 * time.Second
	client := sse.NewClient(os.Args[1], sse.ClientMaxBufferSize(longestMessage))
	// It comes back by itself when it was cut off, and returns when the answer was ended.
	for {
		_ = client.SubscribeRaw(func(event *sse.Event) {
			if ms, err := strconv.Atoi(string(event.Retry)); err == nil {
				retry = time.Duration(ms) * time.Millisecond
			}
			_ = out.Encode(map[string]string{"event": string(event.Event), "data": string(event.Data), "id": string(event.ID)})
		})
		time.Sleep(retry)
	}
}
