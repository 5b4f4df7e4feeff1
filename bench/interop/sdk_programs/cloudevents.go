// Sends CloudEvents with Go's SDK and its sender for Kafka; see __init__.py.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"strings"

	"github.com/IBM/sarama"
	"github.com/cloudevents/sdk-go/protocol/kafka_sarama/v2"
	cloudevents "github.com/cloudevents/sdk-go/v2"
	"github.com/cloudevents/sdk-go/v2/binding"
)

type line struct {
	Topic, Mode, Id, Source, Type, Kind string
	DataContentType                     string
	Extensions                          map[string]any
	Data                                json.RawMessage
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func event(it line) cloudevents.Event {
	made := cloudevents.NewEvent()
	made.SetID(it.Id)
	made.SetSource(it.Source)
	made.SetType(it.Type)
	for name, value := range it.Extensions {
		if number, ok := value.(float64); ok {
			value = int(number)
		}
		made.SetExtension(name, value)
	}
	var data any = []byte(it.Data)
	if it.Kind == "object" {
		check(json.Unmarshal(it.Data, &data))
	}
	check(made.SetData(it.DataContentType, data))
	return made
}

func client(topic string) cloudevents.Client {
	settings := sarama.NewConfig()
	settings.Version = sarama.V2_0_0_0
	settings.Producer.RequiredAcks = sarama.WaitForAll
	sender, err := kafka_sarama.NewSender(strings.Split(os.Args[1], ","), settings, topic)
	check(err)
	made, err := cloudevents.NewClient(sender)
	check(err)
	return made
}

func main() {
	clients := map[string]cloudevents.Client{} // by topic
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	acknowledged := 0
	for lines.Scan() {
		var it line
		check(json.Unmarshal(lines.Bytes(), &it))
		if clients[it.Topic] == nil {
			clients[it.Topic] = client(it.Topic)
		}
		mode := binding.WithForceBinary(context.Background())
		if it.Mode == "structured" {
			mode = binding.WithForceStructured(context.Background())
		}
		if result := clients[it.Topic].Send(mode, event(it)); cloudevents.IsUndelivered(result) {
			log.Fatal(result)
		}
		acknowledged++
	}
	check(lines.Err())
	fmt.Println(acknowledged)
}
