// Sends CloudEvents with Java's SDK, its serializer for Kafka and its JSON format; see __init__.py.

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import io.cloudevents.CloudEvent;
import io.cloudevents.core.builder.CloudEventBuilder;
import io.cloudevents.core.message.Encoding;
import io.cloudevents.jackson.JsonCloudEventData;
import io.cloudevents.jackson.JsonFormat;
import io.cloudevents.kafka.CloudEventSerializer;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.util.HashMap;
import java.util.Map;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.StringSerializer;

public class SendCloudEvents {
    static final ObjectMapper JSON = new ObjectMapper();

    public static void main(String[] arguments) throws Exception {
        var producers = Map.of(
            "binary object", producer(arguments[0], Map.of()),
            "binary bytes", producer(arguments[0], Map.of()),
            "structured object", producer(arguments[0], structured(new JsonFormat())),
            "structured bytes", producer(arguments[0], structured(new JsonFormat().withForceJsonDataToBase64())));
        var lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        int acknowledged = 0;
        for (String text = lines.readLine(); text != null; text = lines.readLine()) {
            JsonNode line = JSON.readTree(text);
            String how = line.get("mode").asText() + " " + line.get("kind").asText();
            producers.get(how).send(new ProducerRecord<>(line.get("topic").asText(), event(line))).get();
            acknowledged++;
        }
        producers.values().forEach(KafkaProducer::close);
        System.out.println(acknowledged);
    }

    static Map<String, Object> structured(JsonFormat format) {
        return Map.of(
            CloudEventSerializer.ENCODING_CONFIG, Encoding.STRUCTURED,
            CloudEventSerializer.EVENT_FORMAT_CONFIG, format);
    }

    static KafkaProducer<String, CloudEvent> producer(String servers, Map<String, Object> encoding) {
        var settings = new HashMap<String, Object>(encoding);
        settings.put("bootstrap.servers", servers);
        settings.put("acks", "all");
        settings.put("key.serializer", StringSerializer.class);
        settings.put("value.serializer", CloudEventSerializer.class);
        return new KafkaProducer<>(settings);
    }

    static CloudEvent event(JsonNode line) throws Exception {
        CloudEventBuilder made = CloudEventBuilder.v1()
            .withId(line.get("id").asText())
            .withSource(URI.create(line.get("source").asText()))
            .withType(line.get("type").asText());
        if (!line.get("datacontenttype").isNull()) {
            made.withDataContentType(line.get("datacontenttype").asText());
        }
        line.get("extensions").fields().forEachRemaining(it -> {
            JsonNode value = it.getValue();
            if (value.isBoolean()) {
                made.withExtension(it.getKey(), value.asBoolean());
            } else if (value.isInt()) {
                made.withExtension(it.getKey(), value.asInt());
            } else {
                made.withExtension(it.getKey(), value.asText());
            }
        });
        JsonNode data = line.get("data");
        return line.get("kind").asText().equals("object")
            ? made.withData(JsonCloudEventData.wrap(data)).build()
            : made.withData(JSON.writeValueAsBytes(data)).build();
    }
}
