import com.launchdarkly.eventsource.ConnectStrategy;
import com.launchdarkly.eventsource.ErrorStrategy;
import com.launchdarkly.eventsource.EventSource;
import com.launchdarkly.eventsource.FaultEvent;
import com.launchdarkly.eventsource.MessageEvent;
import com.launchdarkly.eventsource.RetryDelayStrategy;
import com.launchdarkly.eventsource.StreamEvent;
import com.launchdarkly.eventsource.StreamHttpErrorException;
import java.net.URI;
import java.util.concurrent.TimeUnit;

/** okhttp-eventsource listens to the address given and prints what it hands out, a JSON object a line. */
public class Listen {
    public static void main(String[] arguments) throws Exception {
        EventSource source = new EventSource.Builder(
            // Of its own accord it gives up after 5 seconds without a byte.
            ConnectStrategy.http(URI.create(arguments[0])).readTimeout(75, TimeUnit.SECONDS))
            .errorStrategy(ErrorStrategy.alwaysContinue())
            // Without this each cut doubles the pause, up to 30 seconds, until a connection has held for a minute.
            .retryDelayStrategy(RetryDelayStrategy.defaultStrategy().backoffMultiplier(1))
            .build();
        while (true) {
            StreamEvent event = source.readAnyEvent();
            if (event instanceof MessageEvent) {
                MessageEvent message = (MessageEvent) event;
                print("event", message.getEventName(), "data", message.getData(), "id", message.getLastEventId());
            } else if (event instanceof FaultEvent && isRefused(((FaultEvent) event).getCause())) {
                print("ended", "refused");
                source.close();
                return;
            }
        }
    }

    private static boolean isRefused(Exception cause) {
        int status = cause instanceof StreamHttpErrorException ? ((StreamHttpErrorException) cause).getCode() : 0;
        return status == 401 || status == 403;
    }

    private static void print(String... members) {
        StringBuilder line = new StringBuilder("{");
        for (int i = 0; i < members.length; i += 2) {
            line.append(i == 0 ? "" : ",").append(quoted(members[i])).append(':').append(quoted(members[i + 1]));
        }
        System.out.println(line.append('}'));
        System.out.flush();
    }

    /** A JSON string, in ASCII: nothing then depends on the machine's character set. */
    private static String quoted(String text) {
        if (text == null) {
            return "null";
        }
        StringBuilder quoted = new StringBuilder("\"");
        for (char unit : text.toCharArray()) {
            if (unit == '"' || unit == '\\') {
                quoted.append('\\').append(unit);
            } else if (unit < ' ' || unit > '~') {
                quoted.append(String.format("\\u%04x", (int) unit));
            } else {
                quoted.append(unit);
            }
        }
        return quoted.append('"').toString();
    }
}
