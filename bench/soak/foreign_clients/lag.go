// Prints the lag of consumer groups as exporters of metrics compute it: lag SERVERS GROUP...
//
// kafka_exporter asks for the committed offsets with sarama, and compares them with the newest offsets, which include
// those of open transactions. kminion asks with franz-go. One line for each library, group, topic and partition that it
// knows: LIBRARY GROUP TOPIC PARTITION LAG, where a lag of -1 says that nothing is committed.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"strings"

	"github.com/IBM/sarama"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func report(library, group, topic string, partition int32, lag int64) {
	fmt.Println(library, group, topic, partition, lag)
}

func withSarama(servers, groups []string) {
	client, err := sarama.NewClient(servers, sarama.NewConfig())
	check(err)
	admin, err := sarama.NewClusterAdminFromClient(client)
	check(err)
	for _, group := range groups {
		committed, err := admin.ListConsumerGroupOffsets(group, nil)
		check(err)
		for topic, partitions := range committed.Blocks {
			for partition, block := range partitions {
				newest, err := client.GetOffset(topic, partition, sarama.OffsetNewest)
				check(err)
				lag := int64(-1)
				if block.Offset >= 0 {
					lag = newest - block.Offset
				}
				report("sarama", group, topic, partition, lag)
			}
		}
	}
}

func withFranzGo(servers, groups []string) {
	client, err := kgo.NewClient(kgo.SeedBrokers(servers...))
	check(err)
	lags, err := kadm.NewClient(client).Lag(context.Background(), groups...)
	check(err)
	check(lags.Error())
	lags.Each(func(group kadm.DescribedGroupLag) {
		for _, partitions := range group.Lag {
			for _, it := range partitions {
				check(it.Err)
				report("franz-go", group.Group, it.Topic, it.Partition, it.Lag)
			}
		}
	})
}

func main() {
	servers, groups := strings.Split(os.Args[1], ","), os.Args[2:]
	withSarama(servers, groups)
	withFranzGo(servers, groups)
}
