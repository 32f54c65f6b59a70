// The picture in grey under the colours of a map, as `transnext.explain.overlay` draws it, with the query on top.

// 256 colours of matplotlib's inferno (CC0), RGB.
const INFERNO =
  "00000401000501010601010802010a02020c02020e03021004031204031405041706041907051b08051d09061f0a0722" +
  "0b07240c08260d08290e092b10092d110a30120a32140b34150b37160b39180c3c190c3e1b0c411c0c431e0c451f0c48" +
  "210c4a230c4c240c4f260c51280b53290b552b0b572d0b592f0a5b310a5c320a5e340a5f3609613809623909633b0964" +
  "3d09653e0966400a67420a68440a68450a69470b6a490b6a4a0c6b4c0c6b4d0d6c4f0d6c510e6c520e6d540f6d550f6d" +
  "57106e59106e5a116e5c126e5d126e5f136e61136e62146e64156e65156e67166e69166e6a176e6c186e6d186e6f196e" +
  "71196e721a6e741a6e751b6e771c6d781c6d7a1d6d7c1d6d7d1e6d7f1e6c801f6c82206c84206b85216b87216b88226a" +
  "8a226a8c23698d23698f24699025689225689326679526679727669827669a28659b29649d29649f2a63a02a63a22b62" +
  "a32c61a52c60a62d60a82e5fa92e5eab2f5ead305dae305cb0315bb1325ab3325ab43359b63458b73557b93556ba3655" +
  "bc3754bd3853bf3952c03a51c13a50c33b4fc43c4ec63d4dc73e4cc83f4bca404acb4149cc4248ce4347cf4446d04545" +
  "d24644d34743d44842d54a41d74b3fd84c3ed94d3dda4e3cdb503bdd513ade5238df5337e05536e15635e25734e35933" +
  "e45a31e55c30e65d2fe75e2ee8602de9612bea632aeb6429eb6628ec6726ed6925ee6a24ef6c23ef6e21f06f20f1711f" +
  "f1731df2741cf3761bf37819f47918f57b17f57d15f67e14f68013f78212f78410f8850ff8870ef8890cf98b0bf98c0a" +
  "f98e09fa9008fa9207fa9407fb9606fb9706fb9906fb9b06fb9d07fc9f07fca108fca309fca50afca60cfca80dfcaa0f" +
  "fcac11fcae12fcb014fcb216fcb418fbb61afbb81dfbba1ffbbc21fbbe23fac026fac228fac42afac62df9c72ff9c932" +
  "f9cb35f8cd37f8cf3af7d13df7d340f6d543f6d746f5d949f5db4cf4dd4ff4df53f4e156f3e35af3e55df2e661f2e865" +
  "f2ea69f1ec6df1ed71f1ef75f1f179f2f27df2f482f3f586f3f68af4f88ef5f992f6fa96f8fb9af9fc9dfafda1fcffa4";

const LONG_SIDE = 512; // of the canvas, at least; it depends on the picture alone, so that a link gives the same pixels
const PALETTE = Array.from({ length: 256 }, (_, i) => parseInt(INFERNO.slice(6 * i, 6 * i + 6), 16));
const BOX_COLOURS = ["#4cc2ff", "#ffb000", "#7dff7a", "#ff7ab8", "#b69cff", "#fff36b"];

export class Painter {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d", { alpha: false });
    this.small = new OffscreenCanvas(1, 1);
  }

  // Takes the picture that the network saw; `paint` is about it from now on.
  show(bitmap) {
    const { width, height } = bitmap;
    this.small.width = width;
    this.small.height = height;
    this.smallContext = this.small.getContext("2d", { willReadFrequently: true, alpha: false });
    this.smallContext.drawImage(bitmap, 0, 0);
    this.colours = this.smallContext.getImageData(0, 0, width, height);
    const { data } = this.colours;
    this.grey = new Uint8Array(width * height);
    for (let i = 0, from = 0; i < this.grey.length; i++, from += 4) {
      this.grey[i] = (19595 * data[from] + 38470 * data[from + 1] + 7471 * data[from + 2] + 0x8000) >> 16;
    }
    this.blended = new ImageData(width, height);
    this.blended.data.fill(255);
    this.scale = Math.max(1, Math.ceil(LONG_SIDE / Math.max(width, height)));
    this.canvas.width = width * this.scale;
    this.canvas.height = height * this.scale;
    this.canvas.style.aspectRatio = `${width} / ${height}`;
  }

  // Draws everything. `heat` is Float32Array [height * width], 0..1, or null for the picture alone; `opacity` 0..1;
  // `at` the [row, column] of the query's pixel; `fovea` {row, col, stride, window} or null; `queries` {inside, grid,
  // stride} of a region instead; `objects` and `regions` (a bitmap) of the answer, or null.
  paint({ heat, opacity, at, fovea, queries, objects, regions }) {
    if (heat === null) this.smallContext.putImageData(this.colours, 0, 0);
    else this.smallContext.putImageData(this.blend(heat, opacity), 0, 0);
    const { context, canvas, scale } = this;
    context.imageSmoothingEnabled = scale < 4; // a picture of few pixels is shown as these
    context.imageSmoothingQuality = "low";
    context.drawImage(this.small, 0, 0, canvas.width, canvas.height);
    if (regions && !queries) {
      context.globalAlpha = 0.5;
      context.drawImage(regions, 0, 0, canvas.width, canvas.height);
      context.globalAlpha = 1;
    }
    if (objects) this.boxes(objects, queries !== undefined);
    if (queries) this.outline(queries);
    if (fovea) this.fovea(fovea);
    if (at) this.ring(at);
  }

  blend(heat, opacity) {
    const { data } = this.blended;
    const { grey } = this;
    for (let i = 0, to = 0; i < heat.length; i++, to += 4) {
      const colour = PALETTE[Math.min(255, Math.floor(heat[i] * 256))];
      const under = grey[i];
      data[to] = Math.floor(under + opacity * ((colour >> 16) - under));
      data[to + 1] = Math.floor(under + opacity * (((colour >> 8) & 255) - under));
      data[to + 2] = Math.floor(under + opacity * ((colour & 255) - under));
    }
    return this.blended;
  }

  // Two strokes of one shape, dark and light: seen on any colour.
  stroke(path, width, colour) {
    const { context } = this;
    for (const [extra, style] of [[2, "rgb(0 0 0 / 75%)"], [0, colour]]) {
      context.lineWidth = width + extra;
      context.strokeStyle = style;
      context.stroke(path);
    }
  }

  ring([row, col]) {
    const { width, height } = this.small;
    const radius = Math.max(2.5 * this.scale, 5, (Math.min(width, height) * this.scale) / 48);
    const path = new Path2D();
    path.arc((col + 0.5) * this.scale, (row + 0.5) * this.scale, radius, 0, 2 * Math.PI);
    this.stroke(path, Math.max(1.5, radius / 4), "#fff");
  }

  // The window of the query: feature pixel i is centred on image pixel i * stride.
  fovea({ row, col, stride, window }) {
    const corner = (i) => ((i - window / 2) * stride + 0.5) * this.scale;
    const side = window * stride * this.scale;
    const path = new Path2D();
    path.rect(corner(col), corner(row), side, side);
    this.stroke(path, 1.5, "rgb(255 255 255 / 80%)");
  }

  // The edge of the feature pixels that are queries, each a square around the image pixel that it is centred on.
  outline({ inside, grid: [h, w], stride }) {
    const path = new Path2D();
    const is = (y, x) => y >= 0 && y < h && x >= 0 && x < w && inside[y * w + x] === 1;
    const corner = (i) => ((i - 0.5) * stride + 0.5) * this.scale;
    const line = (y0, x0, y1, x1) => {
      path.moveTo(corner(x0), corner(y0));
      path.lineTo(corner(x1), corner(y1));
    };
    for (let y = 0; y <= h; y++) {
      for (let x = 0; x <= w; x++) {
        if (is(y, x) !== is(y - 1, x)) line(y, x, y, x + 1);
        if (is(y, x) !== is(y, x - 1)) line(y, x, y + 1, x);
      }
    }
    this.stroke(path, 1.5, "#fff");
  }

  // `faint`: where one of them is asked about.
  boxes(objects, faint) {
    const { context, scale } = this;
    if (faint) context.globalAlpha = 0.35;
    context.font = `600 ${Math.max(11, this.canvas.width / 48)}px system-ui, sans-serif`;
    context.textBaseline = "bottom";
    const names = [...new Set(objects.map((object) => object.name))];
    for (const { name, score, box: [x0, y0, x1, y1] } of objects) {
      const colour = colourOf(names, name);
      const path = new Path2D();
      path.rect(x0 * scale, y0 * scale, (x1 - x0) * scale, (y1 - y0) * scale);
      this.stroke(path, 2, colour);
      const label = `${name} ${Math.round(100 * score)}`;
      const base = Math.max(y0 * scale, 18);
      context.lineWidth = 3;
      context.strokeStyle = "rgb(0 0 0 / 75%)";
      context.strokeText(label, x0 * scale + 3, base);
      context.fillStyle = colour;
      context.fillText(label, x0 * scale + 3, base);
    }
    context.globalAlpha = 1;
  }
}

// Of the boxes of a class; `names` are all, each once.
export function colourOf(names, name) {
  return BOX_COLOURS[names.indexOf(name) % BOX_COLOURS.length];
}
