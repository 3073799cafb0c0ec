// Reads one message as the converter of a connector's configuration does; prints what a sink gets.

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.File;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.HashMap;
import java.util.Map;
import org.apache.kafka.connect.data.SchemaAndValue;
import org.apache.kafka.connect.json.JsonConverter;

public class ConnectConverter {
    public static void main(String[] args) throws Exception {
        JsonNode config = new ObjectMapper().readTree(new File(args[0])).get("config");
        String prefix = "value.converter.";
        Map<String, Object> own = new HashMap<>();
        for (Map.Entry<String, JsonNode> line : config.properties()) {
            if (line.getKey().startsWith(prefix)) {
                own.put(line.getKey().substring(prefix.length()), line.getValue().asText());
            }
        }
        try (JsonConverter converter = new JsonConverter()) {
            converter.configure(own, false);
            byte[] message = Files.readAllBytes(Path.of(args[1]));
            SchemaAndValue read = converter.toConnectData(config.get("topics").asText(), message);
            System.out.println(read.schema().type());
            System.out.println(read.value());
        }
    }
}
