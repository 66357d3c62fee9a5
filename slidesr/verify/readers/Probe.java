import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.util.StringJoiner;
import loci.common.DebugTools;
import loci.formats.FormatTools;
import loci.formats.ImageReader;
import loci.formats.MetadataTools;
import loci.formats.meta.IMetadata;
import ome.units.UNITS;
import ome.units.quantity.Length;

/**
 * Says what Bio-Formats sees of FILE, one line of JSON; then answers "LEVEL X Y WIDTH HEIGHT" on
 * stdin with a line of JSON, which counts the bytes that follow it.
 */
class Probe {
  private static final PrintStream OUT = System.out;

  public static void main(String[] arguments) throws Exception {
    System.setOut(System.err);
    DebugTools.setRootLevel("OFF");
    try (ImageReader reader = new ImageReader()) {
      IMetadata about = MetadataTools.createOMEXMLMetadata();
      reader.setMetadataStore(about);
      reader.setFlattenedResolutions(false);
      reader.setId(arguments[0]);
      if (!reader.isRGB() || reader.getPixelType() != FormatTools.UINT8) {
        throw new IllegalArgumentException("not 8-bit RGB");
      }
      tell(facts(reader, about));
      BufferedReader questions = new BufferedReader(new InputStreamReader(System.in));
      for (String line; (line = questions.readLine()) != null; ) {
        answer(reader, line.split(" "));
      }
    } catch (Exception error) {
      tell("{\"error\": " + quoted(String.valueOf(error.getMessage())) + "}");
    }
  }

  private static void answer(ImageReader reader, String[] words) {
    int[] n = java.util.Arrays.stream(words).mapToInt(Integer::parseInt).toArray();
    try {
      reader.setResolution(n[0]);
      byte[] pixels = reader.openBytes(0, n[1], n[2], n[3], n[4]);
      tell("{\"bytes\": " + pixels.length + "}");
      OUT.write(pixels, 0, pixels.length);
      OUT.flush();
    } catch (Exception error) {
      tell("{\"error\": " + quoted(String.valueOf(error.getMessage())) + "}");
    }
  }

  private static String facts(ImageReader reader, IMetadata about) {
    StringJoiner levels = new StringJoiner(", ", "[", "]");
    for (int level = 0; level < reader.getResolutionCount(); level++) {
      reader.setResolution(level);
      levels.add("[" + reader.getSizeX() + ", " + reader.getSizeY() + "]");
    }
    return "{\"version\": " + quoted(FormatTools.VERSION) + ", \"levels\": " + levels
        + ", \"um\": [" + um(about.getPixelsPhysicalSizeX(0)) + ", "
        + um(about.getPixelsPhysicalSizeY(0)) + "], \"magnification\": " + magnification(about)
        + ", \"interleaved\": " + reader.isInterleaved() + "}";
  }

  /** Micrometres; 0 for a size that is not known, or known in pixels alone. */
  private static double um(Length size) {
    Number um = size == null ? null : size.value(UNITS.MICROMETER);
    return um == null ? 0 : um.doubleValue();
  }

  private static double magnification(IMetadata about) {
    String id;
    try {
      id = about.getObjectiveSettingsID(0);
    } catch (NullPointerException error) { // so it is where the image names no objective
      return 0;
    }
    for (int i = 0; i < about.getInstrumentCount(); i++) {
      for (int o = 0; o < about.getObjectiveCount(i); o++) {
        Double found = about.getObjectiveNominalMagnification(i, o);
        if (found != null && about.getObjectiveID(i, o).equals(id)) {
          return found;
        }
      }
    }
    return 0;
  }

  private static void tell(String line) {
    OUT.println(line);
    OUT.flush();
  }

  private static String quoted(String text) {
    return '"' + text.replaceAll("[\\\\\"\\p{Cntrl}]", " ") + '"';
  }
}
