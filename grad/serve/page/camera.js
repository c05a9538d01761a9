// The camera of the device.

import { Problem } from "./problem.js";

export class Camera {
  /** @param {HTMLVideoElement} video where it is shown. */
  constructor(video) {
    this.video = video;
    this.stream = null;
    this.onEnded = () => {};
  }

  get running() {
    return this.stream !== null;
  }

  /** Start, with the camera at the back where there are two. */
  async start() {
    if (!navigator.mediaDevices?.getUserMedia) {
      throw new Problem(
        "Browsers allow the camera only at https addresses and at localhost: open this page there.",
      );
    }
    try {
      this.stream = await navigator.mediaDevices.getUserMedia({
        video: { facingMode: "environment", width: { ideal: 1920 }, height: { ideal: 1080 } },
      });
    } catch (error) {
      throw new Problem(reason(error));
    }
    this.stream.getVideoTracks()[0].addEventListener("ended", () => {
      this.stop();
      this.onEnded();
    });
    this.video.srcObject = this.stream;
    await this.video.play();
  }

  stop() {
    for (const track of this.stream?.getTracks() ?? []) track.stop();
    this.stream = null;
    this.video.srcObject = null;
  }

  /** What the camera sees now, as a file. */
  async grab() {
    const { videoWidth: width, videoHeight: height } = this.video;
    const canvas = Object.assign(document.createElement("canvas"), { width, height });
    canvas.getContext("2d").drawImage(this.video, 0, 0);
    const blob = await new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.95));
    const time = new Date().toISOString().slice(11, 19).replaceAll(":", "-");
    return new File([blob], `camera-${time}.jpg`, { type: "image/jpeg" });
  }
}

function reason(error) {
  if (error.name === "NotFoundError") return "There is no camera: plug one in, or choose files.";
  if (error.name === "NotAllowedError") {
    return "The camera was not allowed: allow it in the browser's address bar and try again.";
  }
  if (error.name === "NotReadableError") {
    return "The camera is in use by another program or was unplugged: close that one and try again.";
  }
  return `The camera can't be used (${error.message || error.name}).`;
}
