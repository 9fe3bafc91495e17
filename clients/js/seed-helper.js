/**
 * The script behind `renderJsTag($url, $function)`: waits at a page of the site for messages, and hands each text to a
 * function of the page. For applications written for the older versions of this project; new ones use comet.js.
 *
 *   <script src="seed-helper.js" data-comet-url="read.php" data-comet-function="notify"></script>
 *
 * As many as a page wants, each on its own. No library, no alert, nothing that a strict Content-Security-Policy forbids.
 */
(function () {
  "use strict";

  /** The pause between an answer and the next request, as it always was. */
  var PAUSE_MS = 50;
  /** After a failure: a random part of a wait that doubles. A server that restarts is found again within seconds. */
  var BACKOFF_MS = 1000;
  var BACKOFF_MAX_MS = 10000;
  /** No web server lets a request wait for longer; one that is still open then is lost. */
  var ANSWER_MS = 90000;
  var PREFIX = "value:";

  function random() {
    return Math.random().toString(36).slice(2) + Math.random().toString(36).slice(2);
  }

  function textOf(element, name) {
    for (var child = element.firstElementChild; child; child = child.nextElementSibling) {
      if (child.localName === name) return child.textContent;
    }
    return null;
  }

  /** Follows one page of the site for one script element. */
  function follow(url, name, cursor) {
    var session = random();
    var failures = 0;
    var lastTime = null;
    var request = null;
    var timer = 0;
    var gone = false;

    function address(parameters) {
      var query = [];
      for (var key in parameters) query.push(key + "=" + encodeURIComponent(parameters[key]));
      var parts = url.split("#")[0];
      return parts + (parts.indexOf("?") < 0 ? "?" : "&") + query.join("&");
    }

    function show(text, time, isCertain) {
      var at = text.indexOf(PREFIX);
      // Without a cursor the time tells a message from one that was shown already.
      if (at < 0 || (!isCertain && time === lastTime)) return;
      lastTime = time;
      text = text.slice(at + PREFIX.length).replace(/^ /, "");
      if (!text.trim()) return;
      var call = name.split(".").reduce(function (object, part) {
        return object == null ? object : object[part];
      }, window);
      if (typeof call !== "function") return window.console && console.error("CometServer: there is no function " + name);
      try {
        call(text);
      } catch (error) {
        // A fault of the page's function must not end the waiting.
        setTimeout(function () {
          throw error;
        });
      }
    }

    function take(answer) {
      var root = answer.documentElement;
      if (!root || root.localName !== "comet") throw new Error("no answer of a CometServer");
      var next = textOf(root, "cursor");
      var several = Array.prototype.filter.call(root.children, function (child) {
        return child.localName === "message";
      });
      if (!several.length) several = [root];
      several.forEach(function (message) {
        show(textOf(message, "data") || "", textOf(message, "time"), next !== null);
      });
      if (next !== null) cursor = next;
    }

    function again(ms) {
      clearTimeout(timer);
      if (!gone) timer = setTimeout(ask, ms);
    }

    function failed() {
      again(Math.random() * Math.min(BACKOFF_MAX_MS, BACKOFF_MS * Math.pow(2, failures++)));
    }

    function ask() {
      var own = (request = new XMLHttpRequest());
      own.open("GET", address({ comet_cursor: cursor, comet_session: session, _: Date.now() }));
      own.timeout = ANSWER_MS;
      own.onloadend = function () {
        if (gone || own !== request) return;
        var later = parseFloat(own.getResponseHeader("X-Comet-Retry-Ms"));
        if (!(later >= 0)) later = parseFloat(own.getResponseHeader("Retry-After")) * 1000;
        try {
          if (own.status !== 200 || !own.responseXML) throw new Error("status " + own.status);
          take(own.responseXML);
        } catch (error) {
          return later >= 0 ? again(later) : failed();
        }
        failures = 0;
        again(later >= 0 ? later : PAUSE_MS);
      };
      own.send();
    }

    window.addEventListener("pagehide", function () {
      gone = true;
      clearTimeout(timer);
      if (!request) return;
      request.abort();
      // Many a web server does not tell PHP that a page has gone.
      if (navigator.sendBeacon) navigator.sendBeacon(address({ comet_cursor: cursor, comet_release: session }));
    });
    window.addEventListener("pageshow", function (event) {
      if (!event.persisted) return;
      gone = false;
      ask();
    });
    window.addEventListener("online", function () {
      if (!request || request.readyState === 4) again(0);
    });
    ask();
  }

  function start() {
    var scripts = document.querySelectorAll("script[data-comet-url]");
    Array.prototype.forEach.call(scripts, function (script) {
      if (script.cometFollows) return;
      script.cometFollows = true;
      var data = script.dataset;
      follow(data.cometUrl, data.cometFunction, data.cometCursor || "");
    });
  }

  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
