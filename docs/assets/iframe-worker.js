// Browsers start no worker from a file on the disk, and the search is one. On such pages a hidden frame stands in for it.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(address) {
      super()
      this.frame = document.createElement("iframe")
      this.frame.hidden = true
      this.frame.srcdoc =
        `<script>postMessage = (data) => parent.postMessage(data, "*")</scr` + `ipt><script src="${address}"></scr` + `ipt>`
      this.loaded = new Promise((done) => this.frame.addEventListener("load", done))
      window.addEventListener("message", ({ source, data }) => {
        if (source !== this.frame.contentWindow) return
        const event = new MessageEvent("message", { data })
        this.dispatchEvent(event)
        this.onmessage?.(event)
      })
      document.documentElement.append(this.frame)
    }
    postMessage(data) {
      // by this window's method: the frame's own is what its script answers by
      this.loaded.then(() => window.postMessage.call(this.frame.contentWindow, data, "*"))
    }
    terminate() {
      this.frame.remove()
    }
  }
}
