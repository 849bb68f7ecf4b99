// Receive events in DingTalk's own form: java DingTalkReceiver.java, with DINGTALK_TOKEN, _AES_KEY and _OWNER_KEY set.
// Java 17 or newer, no libraries.

import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.io.PrintStream;
import java.net.InetSocketAddress;
import java.net.URLDecoder;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.security.GeneralSecurityException;
import java.security.MessageDigest;
import java.security.SecureRandom;
import java.util.Arrays;
import java.util.Base64;
import java.util.HashMap;
import java.util.HexFormat;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.Executors;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import javax.crypto.Cipher;
import javax.crypto.spec.IvParameterSpec;
import javax.crypto.spec.SecretKeySpec;

public class DingTalkReceiver {
    private static final String TOKEN = System.getenv("DINGTALK_TOKEN");
    // 43 characters, 32 bytes.
    private static final byte[] KEY = Base64.getDecoder().decode(System.getenv("DINGTALK_AES_KEY") + "=");
    private static final byte[] OWNER_KEY = System.getenv("DINGTALK_OWNER_KEY").getBytes(StandardCharsets.UTF_8);
    private static final int PORT = Integer.parseInt(System.getenv().getOrDefault("PORT", "8080"));
    // A JSON library of yours reads these two as well.
    private static final Pattern ENCRYPT = Pattern.compile("\"encrypt\"\\s*:\\s*\"([A-Za-z0-9+/=\\\\]+)\"");
    private static final Pattern CHECK_URL = Pattern.compile("\"EventType\"\\s*:\\s*\"check_url\"");
    // Yours is a unique column, in the transaction in which you store the event.
    private static final Set<String> SEEN = ConcurrentHashMap.newKeySet();
    private static final PrintStream OUT = new PrintStream(System.out, true, StandardCharsets.UTF_8);

    /** Take an event: store it, and work later where the work takes longer than a few seconds. */
    private static void handle(String text) throws GeneralSecurityException {
        if (CHECK_URL.matcher(text).find()) {
            return; // a question whether this address works
        }
        byte[] key = MessageDigest.getInstance("SHA-256").digest(text.getBytes(StandardCharsets.UTF_8));
        if (SEEN.contains(HexFormat.of().formatHex(key))) {
            return; // sent again, because the answer to the first was lost: its text is the same
        }
        OUT.println(text);
        SEEN.add(HexFormat.of().formatHex(key));
    }

    /** Return the SHA-1 over the four texts in alphabetical order. */
    private static String signature(String timestamp, String nonce, String encrypt) throws GeneralSecurityException {
        String[] texts = {TOKEN, timestamp, nonce, encrypt};
        Arrays.sort(texts);
        byte[] joined = String.join("", texts).getBytes(StandardCharsets.UTF_8);
        return HexFormat.of().formatHex(MessageDigest.getInstance("SHA-1").digest(joined));
    }

    private static byte[] crypt(int mode, byte[] input) throws GeneralSecurityException {
        Cipher cipher = Cipher.getInstance("AES/CBC/NoPadding");
        cipher.init(mode, new SecretKeySpec(KEY, "AES"), new IvParameterSpec(KEY, 0, 16));
        return cipher.doFinal(input);
    }

    /** Return the text inside: 16 random bytes, its length, the text, the owner key, padding. */
    private static String unseal(String encrypt) throws GeneralSecurityException {
        byte[] plain = crypt(Cipher.DECRYPT_MODE, Base64.getDecoder().decode(encrypt));
        int end = 20 + ByteBuffer.wrap(plain).getInt(16);
        byte[] owner = Arrays.copyOfRange(plain, end, plain.length - plain[plain.length - 1]);
        if (!Arrays.equals(owner, OWNER_KEY)) {
            throw new GeneralSecurityException("sealed for another owner key");
        }
        return new String(plain, 20, end - 20, StandardCharsets.UTF_8);
    }

    /** Return the answer's four fields as JSON. */
    private static String seal(String text) throws GeneralSecurityException {
        byte[] message = text.getBytes(StandardCharsets.UTF_8);
        byte[] random = new byte[16];
        new SecureRandom().nextBytes(random);
        int length = 20 + message.length + OWNER_KEY.length;
        int padding = 32 - length % 32;
        byte[] plain = new byte[length + padding];
        Arrays.fill(plain, (byte) padding);
        ByteBuffer.wrap(plain).put(random).putInt(message.length).put(message).put(OWNER_KEY);
        String encrypt = Base64.getEncoder().encodeToString(crypt(Cipher.ENCRYPT_MODE, plain));
        String timestamp = String.valueOf(System.currentTimeMillis());
        String nonce = HexFormat.of().formatHex(random, 0, 8);
        return String.format("{\"msg_signature\": \"%s\", \"timeStamp\": \"%s\", \"nonce\": \"%s\", \"encrypt\": \"%s\"}",
                signature(timestamp, nonce, encrypt), timestamp, nonce, encrypt);
    }

    private static Map<String, String> query(HttpExchange exchange) {
        Map<String, String> values = new HashMap<>();
        for (String part : exchange.getRequestURI().getRawQuery().split("&")) {
            String[] pair = part.split("=", 2);
            values.put(pair[0], pair.length < 2 ? "" : URLDecoder.decode(pair[1], StandardCharsets.UTF_8));
        }
        return values;
    }

    /** Return the answer to a request, null where its signature is wrong. */
    private static String taken(Map<String, String> query, String body) throws GeneralSecurityException {
        Matcher found = ENCRYPT.matcher(body);
        if (!found.find()) {
            return null;
        }
        String encrypt = found.group(1).replace("\\/", "/");
        String expected = signature(query.get("timestamp"), query.get("nonce"), encrypt);
        // DingTalk itself, where the callback was registered through the API, sends `signature` only
        String given = query.getOrDefault("msg_signature", query.get("signature"));
        if (!MessageDigest.isEqual(expected.getBytes(), given.getBytes())) {
            return null;
        }
        handle(unseal(encrypt));
        return seal("success");
    }

    private static void receive(HttpExchange exchange) throws IOException {
        String answer = null;
        int status = 401;
        try {
            String body = new String(exchange.getRequestBody().readAllBytes(), StandardCharsets.UTF_8);
            answer = taken(query(exchange), body);
        } catch (GeneralSecurityException | RuntimeException error) {
            error.printStackTrace();
            status = 500;
        }
        if (answer == null) {
            exchange.sendResponseHeaders(status, -1);
        } else { // 200 and a sealed `success`: taken, and not sent again; anything else: sent again later
            exchange.getResponseHeaders().set("Content-Type", "application/json");
            exchange.sendResponseHeaders(200, answer.length());
            exchange.getResponseBody().write(answer.getBytes(StandardCharsets.UTF_8));
        }
        exchange.close();
    }

    public static void main(String[] arguments) throws IOException {
        HttpServer server = HttpServer.create(new InetSocketAddress(PORT), 0);
        server.setExecutor(Executors.newFixedThreadPool(8));
        server.createContext("/", DingTalkReceiver::receive);
        server.start();
    }
}
