// Receive events in the Standard Webhooks form: java StandardReceiver.java, with WEBHOOK_SECRET and perhaps PORT set.
// Java 17 or newer, no libraries.

import com.sun.net.httpserver.Headers;
import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.io.PrintStream;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.security.GeneralSecurityException;
import java.security.MessageDigest;
import java.time.Instant;
import java.util.Base64;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.Executors;
import javax.crypto.Mac;
import javax.crypto.spec.SecretKeySpec;

public class StandardReceiver {
    private static final byte[] SECRET =
            Base64.getDecoder().decode(System.getenv("WEBHOOK_SECRET").replaceFirst("^whsec_", ""));
    private static final int PORT = Integer.parseInt(System.getenv().getOrDefault("PORT", "8080"));
    // Seconds by which a request's time may differ from this machine's clock.
    private static final long TOLERANCE = 5 * 60;
    // Yours is a unique column, in the transaction in which you store the event.
    private static final Set<String> SEEN = ConcurrentHashMap.newKeySet();
    private static final PrintStream OUT = new PrintStream(System.out, true, StandardCharsets.UTF_8);

    /** Take an event: store it, and work later where the work takes longer than a few seconds. */
    private static void handle(String id, String event) {
        if (SEEN.contains(id)) {
            return; // sent again, because the answer to the first was lost
        }
        OUT.println(id + " " + event);
        SEEN.add(id);
    }

    /** The header holds one signature, or two while the secret is rotated: one that fits is enough. */
    private static boolean verified(Headers headers, byte[] body) throws GeneralSecurityException {
        String id = headers.getFirst("webhook-id");
        String timestamp = headers.getFirst("webhook-timestamp");
        String signatures = headers.getFirst("webhook-signature");
        if (id == null || timestamp == null || signatures == null || !timestamp.matches("[0-9]{1,12}")
                || Math.abs(Instant.now().getEpochSecond() - Long.parseLong(timestamp)) > TOLERANCE) {
            return false;
        }
        Mac mac = Mac.getInstance("HmacSHA256");
        mac.init(new SecretKeySpec(SECRET, "HmacSHA256"));
        mac.update((id + "." + timestamp + ".").getBytes(StandardCharsets.UTF_8));
        byte[] expected = ("v1," + Base64.getEncoder().encodeToString(mac.doFinal(body))).getBytes();
        boolean fits = false;
        for (String given : signatures.split(" ")) {
            fits |= MessageDigest.isEqual(expected, given.getBytes());
        }
        return fits;
    }

    /** Return 204: taken, and not sent again; anything but 2xx: sent again later. */
    private static int taken(HttpExchange exchange) throws IOException {
        try {
            byte[] body = exchange.getRequestBody().readAllBytes();
            if (!verified(exchange.getRequestHeaders(), body)) {
                return 401;
            }
            handle(exchange.getRequestHeaders().getFirst("webhook-id"), new String(body, StandardCharsets.UTF_8));
            return 204;
        } catch (GeneralSecurityException | RuntimeException error) {
            error.printStackTrace();
            return 500;
        }
    }

    private static void receive(HttpExchange exchange) throws IOException {
        exchange.sendResponseHeaders(taken(exchange), -1);
        exchange.close();
    }

    public static void main(String[] arguments) throws IOException {
        HttpServer server = HttpServer.create(new InetSocketAddress(PORT), 0);
        server.setExecutor(Executors.newFixedThreadPool(8));
        server.createContext("/", StandardReceiver::receive);
        server.start();
    }
}
