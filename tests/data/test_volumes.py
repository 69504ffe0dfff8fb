"""Volumes: the spacing of a data set, and masks that lie elsewhere than their images."""

import numpy as np
import pytest

from ssmlab.core.errors import DataError
from ssmlab.data.masks.reader import measure_masks, open_masks
from ssmlab.data.masks.volumes import target_spacing

nibabel = pytest.importorskip("nibabel")


def write(path, spacing, shape=(8, 9, 10), origin=(0.0, 0.0, 0.0), turn=0.0, low=0):
    """A volume of random whole numbers with x, y, z of these spacings, turned around z by an angle."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cos, sin = np.cos(turn), np.sin(turn)
    affine = np.eye(4)
    affine[:3, :3] = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]) @ np.diag(spacing)
    affine[:3, 3] = origin
    voxels = np.random.default_rng(len(path.name)).integers(low, 2, shape).astype(np.uint8)
    voxels[0, 0, 0] = 1
    nibabel.save(nibabel.Nifti1Image(voxels, affine), path)


def folder(root, spacings, **masks):
    """Images and masks of these spacings; `masks` says what is different about the mask of case_<number>."""
    for i, spacing in enumerate(spacings):
        write(root / "images" / f"case_{i}.nii.gz", spacing)
        write(root / "masks" / f"case_{i}.nii.gz", **({"spacing": spacing} | masks.get(f"case_{i}", {})))
    return root


def test_the_median_spacing_and_the_size_there(tmp_path):
    data = open_masks(folder(tmp_path, [(0.5, 1.0, 2.0), (1.0, 1.0, 2.0), (0.8, 1.0, 4.0), (0.8, 1.0, 2.0)]))
    assert data.spacing == (2.0, 1.0, 0.8) and data.measured
    assert data.usual == (10, 9, 8)  # 10, 10, 20, 10 and 9 and 5, 10, 8, 8
    assert data.train.sample(0).spacing[0] in (2.0, 4.0)
    measures, classes, count = measure_masks(tmp_path)
    assert (measures.usual, measures.spacing, classes, count) == (data.usual, data.spacing, data.classes, 4)


def test_strongly_anisotropic_sets_take_a_finer_step_along_the_coarsest_axis():
    spacings, flat = [(5.0, 1.0, 1.0)] * 5 + [(3.6, 1.0, 1.0)] * 2, [(30, 200, 200)] * 7
    assert target_spacing(flat, spacings) == (3.6, 1.0, 1.0)
    assert target_spacing([(90, 200, 200)] * 7, spacings) == (5.0, 1.0, 1.0), "many slices: the median"
    assert target_spacing(flat, [(2.0, 1.0, 1.0)] * 7) == (2.0, 1.0, 1.0)
    finest = [(5.0, 1.0, 1.0)] * 5 + [(0.5, 1.0, 1.0)] * 2
    assert target_spacing(flat, finest) == (1.0, 1.0, 1.0), "never finer than the others"


def test_pictures_have_no_spacing():
    data = open_masks("shapes")
    assert (data.spacing, data.measured, data.usual) == ((1.0, 1.0), False, (64, 64))


def test_masks_that_lie_elsewhere_are_named_all_at_once(tmp_path):
    spacing = (0.5, 1.0, 2.0)
    folder(
        tmp_path,
        [spacing] * 6,
        case_0={"spacing": (1.0, 1.0, 1.0)},
        case_1={"origin": (0.0, 3.0, 0.0)},
        case_2={"turn": 0.3},
        case_3={"origin": (0.001, 0.0, 0.0)},  # rounding
        case_4={"shape": (8, 9, 11)},
    )
    with pytest.raises(DataError) as caught:
        open_masks(tmp_path)
    told = caught.value.problems
    assert [problem.split(":")[0] for problem in told] == [f"masks/case_{i}.nii.gz" for i in (0, 1, 2, 4)]
    assert "lies elsewhere than its image images/case_1.nii.gz, by up to 6 voxels" in told[1]
    assert "is 8 x 9 x 11, its image images/case_4.nii.gz is 8 x 9 x 10" in told[3]
    with pytest.raises(DataError) as again:
        measure_masks(tmp_path)
    assert again.value.problems == told


def test_a_spacing_of_nothing_is_told(tmp_path):
    folder(tmp_path, [(1.0, 1.0, 1.0)] * 5)
    file = tmp_path / "images" / "case_2.nii.gz"
    image = nibabel.load(file)
    image.header["pixdim"][1:4] = (1.0, np.nan, 1.0)
    broken = nibabel.Nifti1Image(np.asanyarray(image.dataobj), None, image.header)
    broken.header["pixdim"][1:4] = (1.0, np.nan, 1.0)
    nibabel.save(broken, file)
    with pytest.raises(DataError, match=r"case_2\.nii\.gz: cannot be read \(.*"):
        open_masks(tmp_path)


def test_nnunets_folders_without_their_description(tmp_path):
    write(tmp_path / "imagesTr" / "a_0000.nii.gz", (1.0, 1.0, 1.0))
    write(tmp_path / "labelsTr" / "a.nii.gz", (1.0, 1.0, 1.0))
    with pytest.raises(DataError, match=r"imagesTr without dataset\.json"):
        open_masks(tmp_path)


def test_the_scale_of_intensities_is_that_of_the_data_set(tmp_path):
    """Whether the values of one file fit 8 bits changes nothing."""
    folder(tmp_path, [(1.0, 1.0, 1.0)] * 6)
    for i, (kind, top) in enumerate([(np.uint8, 255), (np.int16, 256), (np.float32, 99.0), (np.uint16, 60000)]):
        voxels = np.zeros((8, 9, 10), kind)
        voxels[:] = np.arange(720).reshape(8, 9, 10) % 90
        voxels[0, 0, 0] = top
        nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), tmp_path / "images" / f"case_{i}.nii.gz")
    data = open_masks(tmp_path)
    kinds = {}
    for split in (data.train, data.val, data.test):
        for i, id_ in enumerate(split.ids):
            image = split.sample(i).image
            kinds[id_[12]] = image.dtype
            if int(id_[12]) < 4:
                assert image.flatten()[1:].tolist() == [
                    x % 90 for x in np.arange(720).reshape(8, 9, 10).T.flatten()[1:]
                ]
    assert kinds == {str(i): np.float32 if i in (2, 3) else np.int16 for i in range(6)}


@pytest.mark.parametrize("shape", [(5, 6, 7), (5, 6, 1)])
def test_volumes_of_mixed_directions_lie_alike(tmp_path, shape):
    rng = np.random.default_rng(0)
    voxels = rng.integers(0, 200, shape).astype(np.int16)
    affine = np.diag([1.0, 2.0, 3.0, 1.0])
    changes = [[0, 1, 2]] * 4 + [[1, 0, 2], [0, 1, 2]]
    signs = [[1, 1, 1]] * 4 + [[-1, 1, 1], [1, -1, 1]]
    for i, (axes, sign) in enumerate(zip(changes, signs, strict=True)):
        for kind, content in (("images", voxels), ("masks", (voxels > 100).astype(np.uint8))):
            turned = nibabel.Nifti1Image(content, affine).as_reoriented(np.stack([axes, sign], 1).astype(float))
            flat = np.asanyarray(turned.dataobj)
            flat = flat[..., 0] if flat.shape[2] == 1 else flat
            (tmp_path / kind).mkdir(exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(flat, turned.affine), tmp_path / kind / f"case_{i}.nii.gz")
    data = open_masks(tmp_path)
    assert data.directions == "RAS" and data.dimensions == (2 if shape[2] == 1 else 3)
    assert [size[0] for size in data.sizes] == [size[2] for size in data.sizes], "counted after turning"
    assert "2 volumes turned to RAS, as the others are" in " ".join(data.notes)
    expected = voxels.T.squeeze()
    for split in (data.train, data.val, data.test):
        for i in range(len(split)):
            sample = split.sample(i)
            np.testing.assert_array_equal(sample.image[0], expected)
            np.testing.assert_array_equal(sample.labels, expected > 100)
            assert sample.spacing == (3.0, 2.0, 1.0)[-expected.ndim :]


def test_a_mask_stored_in_other_directions_than_its_image(tmp_path):
    folder(tmp_path, [(0.5, 1.0, 2.0)] * 5)
    file = tmp_path / "masks" / "case_1.nii.gz"
    before = open_masks(tmp_path)
    nibabel.save(nibabel.load(file).as_reoriented(np.array([[1.0, -1], [0, 1], [2, -1]])), tmp_path / "turned.nii.gz")
    (tmp_path / "turned.nii.gz").replace(file)
    after = open_masks(tmp_path)
    assert after.directions == "RAS" and not any("turned" in note for note in after.notes), "images all lie alike"
    for split, again in ((before.train, after.train), (before.test, after.test)):
        for i in range(len(split)):
            np.testing.assert_array_equal(split.sample(i).labels, again.sample(i).labels)


def test_volumes_that_do_not_say_their_directions_stay_as_they_are(tmp_path):
    folder(tmp_path, [(1.0, 1.0, 1.0)] * 6)
    for i in range(6):
        for kind in ("images", "masks"):
            file = tmp_path / kind / f"case_{i}.nii.gz"
            image = nibabel.load(file)
            if i < 2:
                image = nibabel.Nifti1Image(np.asanyarray(image.dataobj), None)
            elif i == 2:
                image = image.as_reoriented(np.array([[0.0, -1], [1, 1], [2, 1]]))
            nibabel.save(image, tmp_path / "new.nii.gz")
            (tmp_path / "new.nii.gz").replace(file)
    notes = open_masks(tmp_path).notes
    assert "1 volume turned to RAS, as the others are (images/case_2.nii.gz)" in notes
    assert "2 volumes without directions, as stored (images/case_0.nii.gz, images/case_1.nii.gz)" in notes
