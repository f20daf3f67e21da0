// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Governed} from "./Governed.sol";

/// @notice What is known about a model.
struct Model {
    /// 0 none, 1 approved, 2 revoked.
    uint8 status;
    uint64 registeredAt;
    /// SHA-256 of the software bill of materials.
    bytes32 sbom;
    /// SHA-256 of the provenance statement.
    bytes32 provenance;
}

/// @title Models by SHA-256, with their bills of materials and provenance.
/// @notice The digests of a model never change: other contents are another model.
contract ModelRegistry is Governed {
    uint8 public constant NONE = 0;
    uint8 public constant APPROVED = 1;
    uint8 public constant REVOKED = 2;

    mapping(bytes32 model => Model) private _models;

    event ModelRegistered(bytes32 indexed model, bytes32 indexed sbom, bytes32 indexed provenance);
    event ModelRevoked(bytes32 indexed model, address indexed by, bytes32 indexed reason);
    event ModelReinstated(bytes32 indexed model);

    error ModelExists(bytes32 model);
    /// @notice The model's status does not permit this.
    error ModelStatus(bytes32 model, uint8 status);

    constructor(address timelock_, address multisig_, address guardian_) Governed(timelock_, multisig_, guardian_) {}

    /// @notice The model with this hash; status 0 when unknown.
    function modelOf(bytes32 model) external view returns (Model memory) {
        return _models[model];
    }

    function register(bytes32 model, bytes32 sbom, bytes32 provenance) external onlyTimelock {
        if (model == 0 || sbom == 0 || provenance == 0) revert ZeroValue();
        if (_models[model].status != NONE) revert ModelExists(model);
        _models[model] = Model(APPROVED, uint64(block.timestamp), sbom, provenance);
        emit ModelRegistered(model, sbom, provenance);
    }

    function revoke(bytes32 model, bytes32 reason) external onlyGuardianOrTimelock {
        uint8 status = _models[model].status;
        if (status != APPROVED) revert ModelStatus(model, status);
        _models[model].status = REVOKED;
        emit ModelRevoked(model, msg.sender, reason);
    }

    function reinstate(bytes32 model) external onlyTimelock {
        uint8 status = _models[model].status;
        if (status != REVOKED) revert ModelStatus(model, status);
        _models[model].status = APPROVED;
        emit ModelReinstated(model);
    }
}
