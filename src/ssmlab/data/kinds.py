"""Kinds of data, what ends their files, and what sorting them finds."""

from dataclasses import dataclass, field

from ssmlab.data.files import IMAGE_SUFFIXES
from ssmlab.data.images.dicom import SUFFIXES as DICOM


@dataclass(frozen=True)
class Kind:
    """A kind of data: the noun for an example, the suffixes of its files, and those of formats that are not read.

    Of the suffixes of texts only the first that is there counts: README.md next to texts is none of them.
    """

    noun: str
    suffixes: tuple[str, ...]
    unread: tuple[str, ...]
    fix: str


def _endings(text: str) -> tuple[str, ...]:
    return tuple("." + word for word in text.split())


VOLUMES = _endings("nii.gz nii")
KINDS = {
    "image": Kind(
        "image",
        (*IMAGE_SUFFIXES, *DICOM),
        _endings(
            "heic heif hif avif jxl dng cr2 cr3 nef arw orf rw2 raf psd svg eps exr hdr tga ico svs ndpi mrxs scn "
            "nii.gz nii mha mhd nrrd mgz"
        ),
        "convert them to JPEG or PNG",
    ),
    "text": Kind(
        "text",
        _endings("txt text jsonl md"),
        _endings("pdf doc docx odt rtf htm html epub tex"),
        "convert them to .txt",
    ),
    "dna": Kind(
        "FASTA file",
        _endings("fa fasta fna fa.gz fasta.gz fna.gz"),
        _endings("fastq fq fastq.gz fq.gz gb gbk embl 2bit sam bam faa fa.bz2"),
        "convert them to FASTA",
    ),
    "audio": Kind(
        "sound",
        _endings("wav"),
        _endings("mp3 m4a aac flac ogg opus wma aif aiff mp4 mov webm amr"),
        "convert them to .wav",
    ),
    "chat": Kind("file", _endings("jsonl"), (), ""),
    "volume": Kind(
        "volume", VOLUMES, _endings("dcm dicom mha mhd nrrd mgz"), "convert them to NIfTI, e.g. with dcm2niix"
    ),
}
KINDS["mask"] = Kind(
    "image", (*IMAGE_SUFFIXES, *VOLUMES), (*KINDS["image"].unread, *DICOM), "convert them to PNG or NIfTI"
)
KINDS["scan"] = KINDS["mask"]  # images and volumes without their masks


@dataclass(frozen=True, slots=True)
class Example:
    """One file: its name in the listing, the part it was published in, its class, the group that stays on one side.

    part, label: None where nothing says them.
    """

    name: str
    part: str | None = None
    label: str | None = None
    group: str | None = None


@dataclass
class Sorted:
    """What `sort_files` found.

    Attributes:
        prefix: the folder that holds all of it ("" or "a/b/").
        examples: in the order of their names; where classes are wanted, only those that have one.
        classes: sorted, those without an example included.
        loose: examples outside of all class folders.
        folds: names of folds whose examples are the groups.
        masks: images next to their masks, which were left out. unread: files of formats that are not read.
        notes: what was left out and what was decided. warnings: of these what may be a mistake. problems: what must be
            mended, by name.
    """

    prefix: str = ""
    examples: list[Example] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    loose: list[Example] = field(default_factory=list)
    folds: list[str] = field(default_factory=list)
    masks: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
