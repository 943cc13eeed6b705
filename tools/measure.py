"""Measure how calmly a package's code is written: `python tools/measure.py arte`."""

import sys

from arte.howto.measure import measure, measure_text


def main():
    folders = sys.argv[1:] or ["arte"]
    for folder in folders:
        print(f"{folder}\n{measure_text(measure(folder))}")


if __name__ == "__main__":
    main()
