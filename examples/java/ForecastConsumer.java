// Prints the forecasts of one symbol as they come, by Kafka's own client.
// With kafka-clients, zstd-jni, slf4j-api and jackson-databind in libs:
//   java -cp 'libs/*' ForecastConsumer.java AAPL

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.time.Duration;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.StringDeserializer;

public class ForecastConsumer {
    private static final int REMEMBERED = 10_000;

    public static void main(String[] args) throws Exception {
        Map<String, Object> config = Map.of(
            "bootstrap.servers", setting("BOOTSTRAP", "127.0.0.1:9092"),
            "group.id", setting("GROUP", "example-java"),
            "auto.offset.reset", "earliest",
            "enable.auto.commit", false);
        ObjectMapper json = new ObjectMapper();
        Map<String, Boolean> seen = new LinkedHashMap<>() {
            @Override
            protected boolean removeEldestEntry(Map.Entry<String, Boolean> eldest) {
                return size() > REMEMBERED;
            }
        };
        try (KafkaConsumer<String, byte[]> consumer = new KafkaConsumer<>(
                config, new StringDeserializer(), new ByteArrayDeserializer())) {
            consumer.subscribe(List.of(setting("FORECASTS", "market.forecasts.v1")));
            while (true) {
                for (ConsumerRecord<String, byte[]> message : consumer.poll(Duration.ofSeconds(1))) {
                    JsonNode forecast = json.readTree(message.value());
                    boolean isAsked = forecast.get("symbol").asText().equals(args[0]);
                    if (isAsked && seen.put(forecast.get("id").asText(), true) == null) {
                        show(forecast);
                    }
                }
                consumer.commitSync(); // after the work, so that nothing is lost
            }
        }
    }

    private static void show(JsonNode forecast) {
        JsonNode ahead = forecast.get("horizons").get(0);
        JsonNode prices = ahead.get("quantiles");
        System.out.printf("%s %s after %s: median %s, 90%% %s to %s%n",
            forecast.get("symbol").asText(), forecast.get("interval").asText(),
            forecast.get("as_of_ms"), ahead.get("predicted_close"),
            prices.get("0.05"), prices.get("0.95"));
    }

    private static String setting(String name, String otherwise) {
        return System.getenv().getOrDefault(name, otherwise);
    }
}
