/* The trained network in plain JavaScript, as ddpm_jax/models/unet.py and layers.py with Ho et al.'s architecture.

   An image is {h, w, c, data}, data a Float32Array `[h * w * c]`. Parameters are read by their names in Flax. */
define("unet", [], () => {
  const image = (h, w, c) => ({ h, w, c, data: new Float32Array(h * w * c) });
  const silu = (x) => x / (1 + Math.exp(-x));
  const mapped = (x, f) => ({ ...x, data: x.data.map(f) });

  /** The number that 16 bits are in IEEE 754's half precision. */
  function half(bits) {
    const sign = bits & 0x8000 ? -1 : 1,
      exponent = (bits >> 10) & 31,
      fraction = bits & 1023;
    return exponent ? sign * 2 ** (exponent - 15) * (1 + fraction / 1024) : sign * 2 ** -24 * fraction;
  }

  /** The parameters `{name: Float32Array}` from float16 numbers in base64, in the order of `[[name, size], ...]`. */
  function parameters(shapes, text) {
    const raw = atob(text),
      params = {};
    let at = 0;
    for (const [name, size] of shapes) {
      params[name] = Float32Array.from({ length: size }, (_, i) =>
        half(raw.charCodeAt(at + 2 * i) | (raw.charCodeAt(at + 2 * i + 1) << 8)),
      );
      at += 2 * size;
    }
    return params;
  }

  class UNet {
    constructor(arch, params) {
      Object.assign(this, { arch, params });
    }

    /** A linear map of the last axis. */
    dense(name, x) {
      const kernel = this.params[`${name}/kernel`],
        bias = this.params[`${name}/bias`],
        c = bias.length,
        out = image(x.h, x.w, c);
      for (let p = 0; p < x.h * x.w; p++) this.add_product(out.data, p * c, c, x.data, p * x.c, x.c, kernel, 0, bias);
      return out;
    }

    /** Adds `x[from..] kernel[at..]` to `out[to..]`, which begins as the bias if there is one. */
    add_product(out, to, c, x, from, c_in, kernel, at, bias) {
      if (bias) for (let j = 0; j < c; j++) out[to + j] = bias[j];
      for (let i = 0; i < c_in; i++, at += c) {
        const value = x[from + i];
        for (let j = 0; j < c; j++) out[to + j] += value * kernel[at + j];
      }
    }

    /** A 3x3 convolution; with stride 2 the zeros are below and on the right, as "SAME" puts them. */
    conv(name, x, stride = 1) {
      const kernel = this.params[`${name}/kernel`],
        bias = this.params[`${name}/bias`],
        c = bias.length;
      const out = image(x.h / stride, x.w / stride, c),
        first = stride === 1 ? -1 : 0;
      for (let row = 0; row < out.h; row++)
        for (let column = 0; column < out.w; column++) {
          const to = (row * out.w + column) * c;
          out.data.set(bias, to);
          for (let dy = 0; dy < 3; dy++)
            for (let dx = 0; dx < 3; dx++) {
              const y = row * stride + first + dy,
                z = column * stride + first + dx;
              if (y < 0 || z < 0 || y >= x.h || z >= x.w) continue;
              this.add_product(out.data, to, c, x.data, (y * x.w + z) * x.c, x.c, kernel, (dy * 3 + dx) * x.c * c);
            }
        }
      return out;
    }

    /** GroupNorm: zero mean and unit variance of each group of channels, over the whole image. */
    norm(name, x) {
      const scale = this.params[`${name}/scale`],
        bias = this.params[`${name}/bias`],
        size = x.c / this.arch.norm_groups;
      const out = image(x.h, x.w, x.c),
        pixels = x.h * x.w;
      for (let first = 0; first < x.c; first += size) {
        let sum = 0,
          squares = 0;
        const each = (f) => {
          for (let p = 0; p < pixels; p++) for (let j = first; j < first + size; j++) f(p * x.c + j, j);
        };
        each((i) => (sum += x.data[i]));
        const mean = sum / (pixels * size);
        each((i) => (squares += (x.data[i] - mean) ** 2));
        const factor = 1 / Math.sqrt(squares / (pixels * size) + this.arch.norm_epsilon);
        each((i, j) => (out.data[i] = (x.data[i] - mean) * factor * scale[j] + bias[j]));
      }
      return out;
    }

    /** Two convolutions with the embedding between them, and a residual connection. */
    block(name, x, emb) {
      const h = this.conv(`${name}/conv_0`, mapped(this.norm(`${name}/norm_0`, x), silu));
      const shift = this.dense(`${name}/emb`, mapped(emb, silu)).data;
      for (let i = 0; i < h.data.length; i++) h.data[i] += shift[i % h.c];
      const out = this.conv(`${name}/conv_1`, mapped(this.norm(`${name}/norm_1`, h), silu));
      const skip = x.c === out.c ? x : this.dense(`${name}/shortcut`, x);
      return { ...out, data: out.data.map((value, i) => value + skip.data[i]) };
    }

    /** Self-attention of every pixel to every pixel, with one head and a residual connection. */
    attention(name, x) {
      const h = this.norm(`${name}/norm`, x),
        n = x.h * x.w,
        c = x.c;
      const [query, key, value] = ["query", "key", "value"].map((part) => this.dense(`${name}/${part}`, h).data);
      const mixed = image(x.h, x.w, c),
        weight = new Float64Array(n);
      for (let i = 0; i < n; i++) {
        let most = -Infinity,
          total = 0;
        for (let j = 0; j < n; j++) {
          let dot = 0;
          for (let k = 0; k < c; k++) dot += query[i * c + k] * key[j * c + k];
          weight[j] = dot / Math.sqrt(c);
          most = Math.max(most, weight[j]);
        }
        for (let j = 0; j < n; j++) total += weight[j] = Math.exp(weight[j] - most);
        for (let j = 0; j < n; j++)
          for (let k = 0; k < c; k++) mixed.data[i * c + k] += (weight[j] / total) * value[j * c + k];
      }
      const out = this.dense(`${name}/out`, mixed);
      return { ...out, data: out.data.map((part, i) => part + x.data[i]) };
    }

    attended(name, x, emb) {
      const h = this.block(name, x, emb);
      return `${name}_attention/norm/scale` in this.params ? this.attention(`${name}_attention`, h) : h;
    }

    /** The Fourier features of the 0-based time index t - 1, through two linear maps. */
    embedding(index) {
      const channels = this.arch.channels,
        wave = image(1, 1, channels),
        half_width = channels / 2;
      for (let i = 0; i < half_width; i++) {
        const angle = index * Math.exp((-Math.log(10000) / (half_width - 1)) * i);
        wave.data[i] = Math.sin(angle);
        wave.data[half_width + i] = Math.cos(angle);
      }
      return this.dense("embedding/dense_1", mapped(this.dense("embedding/dense_0", wave), silu));
    }

    /** The noise that the network predicts in an image `[H * W]` at the time t. */
    eps(x, t) {
      const { channel_mult, num_res_blocks, side } = this.arch,
        last = channel_mult.length - 1,
        emb = this.embedding(t - 1);
      const skips = [this.conv("encoder/conv_in", { h: side, w: side, c: 1, data: Float32Array.from(x) })];
      for (let level = 0; level <= last; level++) {
        for (let i = 0; i < num_res_blocks; i++)
          skips.push(this.attended(`encoder/level_${level}_block_${i}`, skips[skips.length - 1], emb));
        if (level < last) skips.push(this.conv(`encoder/level_${level}_down/conv`, skips[skips.length - 1], 2));
      }
      let h = this.block("middle/block_1", this.attended("middle/block_0", skips[skips.length - 1], emb), emb);
      for (let level = last; level >= 0; level--) {
        for (let i = 0; i <= num_res_blocks; i++)
          h = this.attended(`decoder/level_${level}_block_${i}`, joined(h, skips.pop()), emb);
        if (level > 0) h = this.conv(`decoder/level_${level}_up/conv`, doubled(h));
      }
      return Float64Array.from(this.conv("conv_out", mapped(this.norm("norm_out", h), silu)).data);
    }
  }

  /** Two images one behind the other along the channels. */
  function joined(a, b) {
    const out = image(a.h, a.w, a.c + b.c);
    for (let p = 0; p < a.h * a.w; p++) {
      out.data.set(a.data.subarray(p * a.c, (p + 1) * a.c), p * out.c);
      out.data.set(b.data.subarray(p * b.c, (p + 1) * b.c), p * out.c + a.c);
    }
    return out;
  }

  /** An image in which each pixel is repeated four times. */
  function doubled(x) {
    const out = image(2 * x.h, 2 * x.w, x.c);
    for (let row = 0; row < out.h; row++)
      for (let column = 0; column < out.w; column++) {
        const from = ((row >> 1) * x.w + (column >> 1)) * x.c;
        out.data.set(x.data.subarray(from, from + x.c), (row * out.w + column) * x.c);
      }
    return out;
  }

  return { UNet, parameters, half };
});
