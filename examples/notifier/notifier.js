/**
 * Notifications in a corner of the page: they stack, fade, and can be dismissed.
 *
 *   <section class="jGrowl" aria-label="Notifications"></section>
 *   <script src="notifier.js" defer></script>         then: notify("Hello")
 *
 * A text is shown as text. A page whose messages are HTML, and written by nobody but the site itself, says `data-html`.
 * `data-lifetime` is how many seconds a notification stays (8; 0: until it is dismissed). The time stands still while
 * somebody points at one or has the focus there, and while the page is hidden. F8 leads to the newest, Escape dismisses.
 */
(function () {
  "use strict";

  const LIFETIME_S = 8;
  const FADE_MS = 220;
  /** After the pointer has left: no notification vanishes from under somebody's eyes. */
  const AT_LEAST_MS = 1500;

  const stillness = matchMedia("(prefers-reduced-motion: reduce)");

  function made(name, className, more) {
    return Object.assign(document.createElement(name), { className }, more);
  }

  class Notifier {
    #list = made("ol", "jGrowl-list");
    #closer = made("button", "jGrowl-closer", { type: "button", textContent: "Dismiss all", hidden: true });
    #isHtml;
    #lifetime;
    /** Those shown: element to `{left, since, timer}`. */
    #shown = new Map();
    #isPointed = false;
    #isFocused = false;
    /** Where the focus was before it came here. */
    #from = null;

    constructor(place) {
      this.#isHtml = place.hasAttribute("data-html");
      this.#lifetime = 1000 * (place.dataset.lifetime ?? LIFETIME_S);
      // A list without bullets is no list to every screen reader.
      this.#list.setAttribute("role", "list");
      this.#list.setAttribute("aria-live", "polite");
      this.#list.setAttribute("aria-relevant", "additions");
      place.setAttribute("aria-keyshortcuts", "F8");
      place.append(this.#list, this.#closer);
      this.#closer.addEventListener("click", () => this.#dismissAll());
      // A finger does not hover: its "leave" may never come.
      place.addEventListener("pointerover", (event) => event.pointerType === "mouse" && this.#point(true));
      place.addEventListener("pointerleave", () => this.#point(false));
      place.addEventListener("focusin", (event) => this.#focus(true, event, place));
      place.addEventListener("focusout", (event) => this.#focus(place.contains(event.relatedTarget), event, place));
      place.addEventListener("keydown", (event) => this.#escape(event));
      document.addEventListener("keydown", (event) => this.#hotkey(event));
      document.addEventListener("visibilitychange", () => this.#run());
    }

    /** Shows it below those that are there. */
    show(text) {
      const item = made("li", "jGrowl-notification");
      const message = made("div", "jGrowl-message");
      message[this.#isHtml ? "innerHTML" : "textContent"] = text;
      const now = new Date();
      const time = made("time", "jGrowl-time", { dateTime: now.toISOString() });
      time.textContent = now.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
      const close = made("button", "jGrowl-close", { type: "button", textContent: "×" });
      close.setAttribute("aria-label", "Dismiss");
      close.addEventListener("click", () => this.#dismiss(item));
      item.append(message, time, close);
      this.#list.append(item);
      this.#shown.set(item, { left: this.#lifetime });
      if (!stillness.matches) {
        item.animate({ opacity: [0, 1], transform: ["translateX(1.5rem)", "none"] }, { duration: FADE_MS, easing: "ease-out" });
      }
      // Not under somebody who reads.
      if (!this.#isHeld) this.#list.scrollTop = this.#list.scrollHeight;
      this.#count();
      this.#run();
    }

    get #isHeld() {
      return this.#isPointed || this.#isFocused || document.hidden;
    }

    /** Lets the time of all run, or stand still. */
    #run() {
      for (const [item, clock] of this.#shown) {
        if (this.#isHeld && clock.timer) {
          clearTimeout(clock.timer);
          clock.timer = undefined;
          clock.left = Math.max(AT_LEAST_MS, clock.left - (performance.now() - clock.since));
        } else if (!this.#isHeld && !clock.timer && this.#lifetime > 0) {
          clock.since = performance.now();
          clock.timer = setTimeout(() => this.#dismiss(item), clock.left);
        }
      }
    }

    #point(isPointed) {
      this.#isPointed = isPointed;
      this.#run();
    }

    #focus(isFocused, event, place) {
      if (event.type === "focusin" && event.relatedTarget && !place.contains(event.relatedTarget)) this.#from = event.relatedTarget;
      this.#isFocused = isFocused;
      this.#run();
    }

    #escape(event) {
      const item = event.target.closest(".jGrowl-notification");
      if (event.key !== "Escape" || !item) return;
      event.preventDefault();
      this.#dismiss(item);
    }

    #hotkey(event) {
      if (event.key !== "F8" || !this.#shown.size) return;
      event.preventDefault();
      if (!this.#isFocused) this.#from = document.activeElement;
      [...this.#shown.keys()].pop().querySelector(".jGrowl-close").focus();
    }

    #dismiss(item) {
      const clock = this.#shown.get(item);
      if (!clock) return;
      clearTimeout(clock.timer);
      const had = [...this.#shown.keys()];
      const at = had.indexOf(item);
      this.#shown.delete(item);
      // Who dismisses by keyboard goes on with the next one, and at the end where they were before.
      if (item.contains(document.activeElement)) this.#leadOn(had[at + 1] ?? had[at - 1]);
      item.inert = true;
      this.#count();
      const gone = () => this.#removed(item);
      if (stillness.matches) return gone();
      item.animate({ opacity: [1, 0], transform: ["none", "translateX(1.5rem)"] }, { duration: FADE_MS, fill: "forwards" }).finished.then(gone, gone);
    }

    #dismissAll() {
      this.#leadOn();
      for (const item of [...this.#shown.keys()]) this.#dismiss(item);
    }

    #leadOn(next) {
      if (next) return next.querySelector(".jGrowl-close").focus();
      const from = this.#from;
      this.#from = null;
      document.activeElement.blur();
      if (from?.isConnected) from.focus();
    }

    #removed(item) {
      item.remove();
      // What is gone from under the pointer has told of no leaving.
      if (this.#shown.size) return;
      this.#isPointed = this.#isFocused = false;
    }

    #count() {
      this.#closer.hidden = this.#shown.size < 2;
    }
  }

  const notifier = new Notifier(document.querySelector(".jGrowl"));
  window.notify = (text) => notifier.show(text);
})();
