// Sends a plan with franz-go; see __init__.py.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"sync/atomic"

	"github.com/twmb/franz-go/pkg/kgo"
)

type line struct {
	Key, Value, Topic string
	Transaction       *string
	Commit            bool
}

var codecs = map[string]kgo.CompressionCodec{
	"gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(),
	"lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
}

var acknowledged atomic.Int64

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func client(more ...kgo.Opt) *kgo.Client {
	made, err := kgo.NewClient(append(more,
		kgo.SeedBrokers(os.Args[1]), kgo.ProducerBatchCompression(codecs[os.Args[2]]))...)
	check(err)
	return made
}

func send(through *kgo.Client, it line) {
	record := &kgo.Record{Topic: it.Topic, Key: []byte(it.Key), Value: []byte(it.Value)}
	through.Produce(context.Background(), record, func(_ *kgo.Record, err error) {
		check(err)
		acknowledged.Add(1)
	})
}

func end(through *kgo.Client, commit bool) {
	check(through.Flush(context.Background()))
	check(through.EndTransaction(context.Background(), kgo.TransactionEndTry(commit)))
}

func main() {
	plain, transactional := client(), client(kgo.TransactionalID(os.Args[3]))
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	var previous *line // the line before, while its transaction is open
	for lines.Scan() {
		var it line
		check(json.Unmarshal(lines.Bytes(), &it))
		if previous != nil && (it.Transaction == nil || *it.Transaction != *previous.Transaction) {
			end(transactional, previous.Commit)
			previous = nil
		}
		if it.Transaction == nil {
			send(plain, it)
			continue
		}
		if previous == nil {
			check(transactional.BeginTransaction())
		}
		send(transactional, it)
		previous = &it
	}
	check(lines.Err())
	if previous != nil {
		end(transactional, previous.Commit)
	}
	check(plain.Flush(context.Background()))
	fmt.Println(acknowledged.Load())
}
