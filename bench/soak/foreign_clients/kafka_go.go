// Sends a plan with kafka-go, which has no transactions; see __init__.py.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/segmentio/kafka-go"
)

const atOnce = 1000 // records

var codecs = map[string]kafka.Compression{
	"gzip": kafka.Gzip, "snappy": kafka.Snappy, "lz4": kafka.Lz4, "zstd": kafka.Zstd,
}

type line struct {
	Key, Value, Topic string
	Transaction       *string
}

func main() {
	writer := &kafka.Writer{
		Addr: kafka.TCP(os.Args[1]), Compression: codecs[os.Args[2]], Balancer: &kafka.Hash{},
		RequiredAcks: kafka.RequireAll, BatchTimeout: 10 * time.Millisecond,
	}
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	acknowledged := 0
	var waiting []kafka.Message
	write := func() {
		if err := writer.WriteMessages(context.Background(), waiting...); err != nil {
			log.Fatal(err)
		}
		acknowledged += len(waiting)
		waiting = nil
	}
	for lines.Scan() {
		var it line
		if err := json.Unmarshal(lines.Bytes(), &it); err != nil || it.Transaction != nil {
			log.Fatalf("it cannot be sent: %s (%v)", lines.Text(), err)
		}
		waiting = append(waiting, kafka.Message{Topic: it.Topic, Key: []byte(it.Key), Value: []byte(it.Value)})
		if len(waiting) == atOnce {
			write()
		}
	}
	if err := lines.Err(); err != nil {
		log.Fatal(err)
	}
	write()
	fmt.Println(acknowledged)
}
