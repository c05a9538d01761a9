// Runs a model that `python -m grad.export MODEL --format onnx` wrote on images, in ONNX Runtime.
//
//     inspect model.onnx image.ppm [more.ppm ...]
//
// Prints path, score, and for each class (`columns` in the file's metadata) the calibrated value,
// 0.5 at the threshold, and the verdict. Reads binary PPM: `magick part.png part.ppm` makes some.

#include <onnxruntime_cxx_api.h>

#include <array>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

struct Image {
  int64_t height = 0, width = 0;
  std::vector<uint8_t> pixels;  // height x width x 3, RGB
};

Image read_ppm(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string magic;
  int64_t top = 0;
  Image image;
  file >> magic >> image.width >> image.height >> top;
  file.get();  // the white space behind the header
  if (magic != "P6" || top != 255 || image.width < 1 || image.height < 1)
    throw std::runtime_error(path + " is no binary PPM with 8 bits a channel");
  image.pixels.resize(static_cast<size_t>(image.height * image.width * 3));
  file.read(reinterpret_cast<char*>(image.pixels.data()),
            static_cast<std::streamsize>(image.pixels.size()));
  if (!file) throw std::runtime_error(path + " ends early");
  return image;
}

int main(int count, char** arguments) try {
  if (count < 3) throw std::runtime_error("usage: inspect model.onnx image.ppm [more.ppm ...]");
  Ort::Env environment;
  Ort::SessionOptions options;
  Ort::Session session(environment, arguments[1], options);
  const Ort::MemoryInfo memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  const std::array<const char*, 1> inputs{"images"};
  const std::array<const char*, 3> outputs{"score", "value", "is_anomalous"};
  for (int index = 2; index < count; ++index) {
    Image image = read_ppm(arguments[index]);
    const std::array<int64_t, 4> shape{1, image.height, image.width, 3};
    const Ort::Value tensor = Ort::Value::CreateTensor<uint8_t>(
        memory, image.pixels.data(), image.pixels.size(), shape.data(), shape.size());
    const auto results = session.Run(Ort::RunOptions{}, inputs.data(), &tensor, inputs.size(),
                                     outputs.data(), outputs.size());
    std::printf("%s %.6f", arguments[index], results[0].GetTensorData<float>()[0]);
    const size_t columns = results[1].GetTensorTypeAndShapeInfo().GetElementCount();
    for (size_t column = 0; column < columns; ++column)
      std::printf(" %.6f %s", results[1].GetTensorData<float>()[column],
                  results[2].GetTensorData<bool>()[column] ? "anomalous" : "good");
    std::printf("\n");
  }
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 2;
}
