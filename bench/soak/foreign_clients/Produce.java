// Sends a plan with Kafka's own Java client; see __init__.py.

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.Properties;
import java.util.concurrent.Future;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.serialization.StringSerializer;

public class Produce {
    static final List<Future<RecordMetadata>> sent = new ArrayList<>();

    public static void main(String[] arguments) throws Exception {
        KafkaProducer<String, String> plain = producer(arguments, null);
        KafkaProducer<String, String> transactional = producer(arguments, arguments[2]);
        transactional.initTransactions();
        var lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        var json = new ObjectMapper();
        JsonNode previous = null; // the line before, while its transaction is open
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            JsonNode record = json.readTree(line);
            if (previous != null && !previous.get("transaction").equals(record.get("transaction"))) {
                end(transactional, previous);
                previous = null;
            }
            if (record.get("transaction").isNull()) {
                send(plain, record);
                continue;
            }
            if (previous == null) {
                transactional.beginTransaction();
            }
            send(transactional, record);
            previous = record;
        }
        if (previous != null) {
            end(transactional, previous);
        }
        plain.close();
        transactional.close();
        for (Future<RecordMetadata> each : sent) {
            each.get(); // throws what went wrong
        }
        System.out.println(sent.size());
    }

    static KafkaProducer<String, String> producer(String[] arguments, String transactionalId) {
        var settings = new Properties();
        settings.put("bootstrap.servers", arguments[0]);
        settings.put("compression.type", arguments[1]);
        settings.put("acks", "all");
        if (transactionalId != null) {
            settings.put("transactional.id", transactionalId);
        }
        return new KafkaProducer<>(settings, new StringSerializer(), new StringSerializer());
    }

    static void send(KafkaProducer<String, String> producer, JsonNode record) {
        sent.add(producer.send(new ProducerRecord<>(
            record.get("topic").asText(), record.get("key").asText(), record.get("value").asText())));
    }

    static void end(KafkaProducer<String, String> producer, JsonNode last) {
        producer.flush();
        if (last.get("commit").asBoolean()) {
            producer.commitTransaction();
        } else {
            producer.abortTransaction();
        }
    }
}
